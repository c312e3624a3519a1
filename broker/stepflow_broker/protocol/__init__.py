"""Keys, scripts and commands."""
