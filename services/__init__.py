"""One folder per process that takes part in an order; the same file names in each."""
