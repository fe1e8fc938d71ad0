"""The registry of the telemetry in telemetry-schema/, and the check that telemetry agrees with it."""
