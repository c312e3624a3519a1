"""A census of the Python standard library: a run per package counts it, in parallel with the others."""
