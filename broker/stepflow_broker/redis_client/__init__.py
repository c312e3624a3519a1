"""Clients and connections."""
