"""Benchmarks: one file per system, one command line, JSON out."""
