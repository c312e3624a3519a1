"""A census of the Python standard library: each package is counted by a run of its own, side by side."""
