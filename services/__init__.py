"""One folder for each service that takes part in an order, with the same file names in each."""
