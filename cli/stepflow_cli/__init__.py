"""The command line: ``stepflow`` and ``stepflow-worker``."""
