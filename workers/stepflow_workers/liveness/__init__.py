"""HeldLeases."""
