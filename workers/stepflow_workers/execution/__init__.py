"""Execution of jobs."""
