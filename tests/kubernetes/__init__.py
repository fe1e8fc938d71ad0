"""On a cluster: the one that kubectl knows."""
