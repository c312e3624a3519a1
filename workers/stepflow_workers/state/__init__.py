"""What the parts of a worker share."""
