"""The page of keys, generated from `KEYS`.

``python -m stepflow_broker.protocol.keys_doc > docs/reference/redis-keys.md``
"""

from __future__ import annotations

import sys

from stepflow_broker.protocol.keys import ANY_PARTITION, KEYS, Key, Keys

__all__ = ["keys_page"]

_PREAMBLE = """\
# Redis keys

All keys and channels of stepflow. Look up what a key means when you inspect a server:

```sh
redis-cli HGETALL stepflow:run:4f1c0d8e7a2b4c5d9e8f7a6b5c4d3e2f   # one run
redis-cli ZCARD stepflow:live                                     # how many runs are live
redis-cli XLEN stepflow:events                                    # events that no worker has routed yet
```

Read keys freely. Never write them: use the commands of `stepflow`. This page is generated from
`broker/stepflow_broker/protocol/keys.py`, and a test compares the two. To change it, edit that file and run
`python -m stepflow_broker.protocol.keys_doc > docs/reference/redis-keys.md`.

- The truth of a run is in `stepflow:run:*`, `stepflow:memos:*`, `stepflow:memo-order:*` and `stepflow:steps:*`.
  Jobs, leases and timers follow from it.
- A live run has no expiry. An ended run is kept for the retention of its app: 7 days by default, and at least 24 hours
  if the producer chose its id.
- Keys that begin with `rq:` belong to RQ and have RQ's format, with JSON in place of pickle. `RQ_KEY_PREFIX` sets their
  prefix, as in RQ.
- With partitions (`?partitions=`, a cluster), each key begins with the tag of its partition, as in
  `{sf:17}:stepflow:live`. Exceptions, which exist once: SHARED. Scripts also declare the key
  `{sf:17}:stepflow:moving`, which is never written. While the slot of the partition moves to another node, the server
  refuses a script that names it, before the script writes anything.
- Times are milliseconds since the epoch. Times in RQ's own sets are seconds.
- `<run>` is a run id, `<step key>` is the hex SHA-1 of a step id, `<queue>` is the name of a queue.
"""
_PARTITION = Keys(ANY_PARTITION)
_HEADINGS = ("key", "type", "what", "written by", "expires")


def keys_page() -> str:
    """The page, in Markdown."""
    rows = [_HEADINGS, ("---",) * len(_HEADINGS), *[_row(key) for key in KEYS]]
    shared = ", ".join(f"`{_shown(key)}`" for key in KEYS if not _PARTITION(key.name).startswith(ANY_PARTITION))
    return _PREAMBLE.replace("SHARED", shared) + "\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


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
