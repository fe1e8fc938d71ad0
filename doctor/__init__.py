"""Find out where spans get lost, in anybody's services."""
