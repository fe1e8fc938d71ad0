"""The cost of tracing, measured on the real parts."""
