"""Consumes the stream of completed orders; owns shipments."""
