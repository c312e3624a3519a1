"""The page of keys, made from `KEYS`: ``python -m stepflow_broker.protocol.keys_doc > docs/redis-keys.md``."""

from __future__ import annotations

import sys

from stepflow_broker.protocol.keys import ANY_PARTITION, KEYS, Key, Keys
from stepflow_engine.product import KEY_PREFIX, NAME

__all__ = ["keys_page"]

_PREAMBLE = """\
# Redis keys

All keys and channels of PRODUCT. Do not edit this page: `python -m stepflow_broker.protocol.keys_doc >
docs/redis-keys.md` generates it from `broker/stepflow_broker/protocol/keys.py`, and a test compares the two.

- The truth of a run is in `PREFIX:run:*`, `PREFIX:memos:*`, `PREFIX:memo-order:*` and `PREFIX:steps:*`.
  Jobs, leases and timers follow from it.
- A live run has no expiry. An ended run is kept for the retention of its app: 7 days by default, and at least 24 hours
  if the producer chose its id.
- Keys that begin with `rq:` belong to RQ and have RQ's format, with JSON in place of pickle. `RQ_KEY_PREFIX` sets their
  prefix, as in RQ.
- With partitions (`?partitions=`, a cluster), each key begins with the tag of its partition, as in
  `{sf:17}:PREFIX:live`. Exceptions, which exist once: SHARED. Scripts also declare the key
  `{sf:17}:PREFIX:moving`, which is never written. While the slot of the partition moves to another node, the server
  refuses a script that names it, before the script writes anything.
- Times are milliseconds since the epoch. Times in RQ's own sets are seconds.
- `<run>` is a run id, `<step key>` is the hex SHA-1 of a step id, `<queue>` is the name of a queue.
"""
_PARTITION = Keys(ANY_PARTITION)
_HEADINGS = ("key", "type", "what", "written by", "goes away")


def keys_page() -> str:
    """The page, in Markdown."""
    rows = [_HEADINGS, ("---",) * len(_HEADINGS), *[_row(key) for key in KEYS]]
    shared = ", ".join(f"`{_shown(key)}`" for key in KEYS if not _PARTITION(key.name).startswith(ANY_PARTITION))
    preamble = _PREAMBLE.replace("SHARED", shared).replace("PREFIX:", f"{KEY_PREFIX}:").replace("PRODUCT", NAME)
    return preamble + "\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(key: Key) -> tuple[str, ...]:
    cells = (f"`{_shown(key)}`", key.type, key.what, key.writer, key.expiry)
    return tuple(_in_cell(cell) for cell in cells)


def _shown(key: Key) -> str:
    return key.text + key.ids.replace(" and ", f"`, `{key.text}").replace(" or ", f"`, `{key.text}")


def _in_cell(text: str) -> str:
    """The text with nothing in it that Markdown takes for HTML or for the end of the cell."""
    code = text.split("`")
    outside = [part.replace("<", "&lt;").replace("|", "\\|") for part in code[::2]]
    inside = [f"`{part}`" for part in code[1::2]]
    return "".join(part for pair in zip(outside, [*inside, ""], strict=True) for part in pair)


if __name__ == "__main__":
    sys.stdout.write(keys_page())
