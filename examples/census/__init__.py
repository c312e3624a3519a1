"""A census of the Python standard library: packages are counted side by side, by several worker processes."""
