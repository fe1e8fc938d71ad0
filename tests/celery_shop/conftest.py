"""The shop and its worker use the same parts as the gallery's services."""

from tests.gallery.conftest import databases, receiver

__all__ = ["databases", "receiver"]
