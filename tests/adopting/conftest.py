"""What the guide's service stands on is what the gallery's services stand on."""

from tests.gallery.conftest import databases, receiver

__all__ = ["databases", "receiver"]
