"""What the shop and its worker stand on is what the gallery's services stand on."""

from tests.gallery.conftest import databases, receiver

__all__ = ["databases", "receiver"]
