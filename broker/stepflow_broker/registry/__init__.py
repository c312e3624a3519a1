"""Registered functions and their rules."""
