"""The fields that a worker adds to its RQ record."""

from __future__ import annotations

__all__ = ["CODE_VERSION"]

CODE_VERSION = "code_version"
"""The version of its code; empty: it does not know it."""
