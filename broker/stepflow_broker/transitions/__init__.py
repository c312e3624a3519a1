"""State transitions: one method for each script."""
