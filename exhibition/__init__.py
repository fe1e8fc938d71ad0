"""Everything that demonstrates or breaks something on purpose; a shop needs none of it."""
