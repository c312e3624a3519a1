"""Where fakeredis answers otherwise than a real server, and why no test minds."""

from __future__ import annotations

__all__ = ["DIFFERENCES"]

DIFFERENCES: dict[str, str] = {}
