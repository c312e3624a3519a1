"""Roles and the ACL file."""
