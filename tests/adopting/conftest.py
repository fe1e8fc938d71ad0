"""The guide's service uses the same parts as the gallery's services."""

from tests.gallery.conftest import databases, receiver

__all__ = ["databases", "receiver"]
