"""Tests on the cluster that kubectl is configured for."""
