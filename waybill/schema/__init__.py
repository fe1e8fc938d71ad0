"""What the telemetry may say: the registry in telemetry-schema/, and whether telemetry agrees with it."""
