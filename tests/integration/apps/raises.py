"""A module that fails when it is imported."""

from __future__ import annotations

from stepflow import Stepflow

app = Stepflow("raises")
settings: dict[str, str] = {}
key = settings["api_key"]
