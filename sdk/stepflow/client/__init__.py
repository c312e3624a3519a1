"""The producing side of an app."""
