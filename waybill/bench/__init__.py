"""What tracing costs, measured on the real parts."""
