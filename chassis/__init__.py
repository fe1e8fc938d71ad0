"""The base of every service, except for its telemetry: app, settings, problems, deadline, database, calls out."""
