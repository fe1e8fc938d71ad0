"""Everything that demonstrates something or breaks it on purpose; a shop does not need it."""
