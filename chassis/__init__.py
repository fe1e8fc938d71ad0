"""What a service stands on that is not telemetry: app, settings, problems, deadline, database, calls out."""
