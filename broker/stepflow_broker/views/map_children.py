"""The runs that a map has started. Nothing stores their ids: they follow from the run, the map and the item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stepflow_engine.ids import item_key, run_id_for, with_partition_prefix

__all__ = ["map_children"]

_MOST = 1_000_000
"""More items than a map can have are those of a damaged memo."""


def map_children(key: str, detail: Mapping[str, Any], begun: object) -> Iterator[str]:
    """The ids that the runs of the items of a map have, in the order of the items.

    Args:
        key: the key of the map.
        detail: the memo of the map, without its outcome. It names the run that began the map: a fork keeps the memo.
        begun: how many items were handed out. Of a map that has stopped, the others have no runs.
    """
    digest, parent = detail.get("digest"), detail.get("started_by")
    if digest and parent and isinstance(begun, int):
        prefix = detail.get("partition") or parent
        for index in range(min(begun, _MOST)):
            yield with_partition_prefix(prefix, run_id_for(parent, item_key(key, digest, index)))
