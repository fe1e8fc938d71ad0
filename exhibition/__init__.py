"""What is shown and broken on purpose; nothing that a shop needs."""
