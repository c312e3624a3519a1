"""The version of stepflow: the only place that states it. The build and the command line read it from here."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
