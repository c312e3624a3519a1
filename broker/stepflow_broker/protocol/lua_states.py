"""The tables of states that the Lua scripts use, generated from the state machine."""

from __future__ import annotations

import re
from collections.abc import Mapping

from stepflow_engine.state_machine import LIVE, STATUS_OF

__all__ = ["lua_states"]


def _table(entries: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{name} = {value}" for name, value in sorted(entries.items())) + "}"


_TABLES = {
    "LIVE_STATUS": _table({str(status): "true" for status in LIVE}),
    "STATUS_OF": _table({str(continuation): f"'{status}'" for continuation, status in STATUS_OF.items()}),
}
"""Name of a constant in the scripts → its value."""


def lua_states(script: str) -> str:
    """Lua definitions of the tables of states that ``script`` names."""
    named = set(re.findall(r"\b[A-Z_]{3,}\b", script))
    return "".join(f"local {name} = {value}\n" for name, value in _TABLES.items() if name in named)
