"""Functions and their steps."""
