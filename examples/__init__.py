"""Programs that show stepflow at work."""
