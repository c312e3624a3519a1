"""The page of keys, made from `KEYS`: ``python -m stepflow_broker.protocol.keys_doc > docs/redis-keys.md``."""

from __future__ import annotations

import sys

from stepflow_broker.protocol.keys import ANY_PARTITION, KEYS, Key, Keys

__all__ = ["keys_page"]

_PREAMBLE = """\
# Redis keys

Every key and channel of stepflow. This page is made from `broker/stepflow_broker/keys.py` by
`python -m stepflow_broker.protocol.keys_doc > docs/redis-keys.md`; a test compares the two.

- The truth of a run is in `stepflow:run:*`, `stepflow:memos:*`, `stepflow:memo-order:*` and `stepflow:steps:*`. Its jobs,
  leases and timers follow from it.
- A run that has not ended has no expiry. One that has ended is kept for the app's retention (7 days unless the app says
  otherwise), and for at least 24 hours when its sender chose its id.
- Keys that begin with `rq:` are RQ's own, in RQ's format, with JSON in place of pickle. Their prefix is that of the
  variable `RQ_KEY_PREFIX`, as in RQ.
- Where keys are divided into partitions (`?partitions=`, a cluster), each key begins with its partition's tag, as in
  `{sf:17}:stepflow:live`, but for these, of which there is one for all:
  SHARED. Scripts then declare one key more, `{sf:17}:stepflow:moving`, which is
  never written: while the partition's slot is on its way to another node, the server refuses a script that names it
  before the script does anything.
- Times are milliseconds since the epoch; in RQ's sets they are seconds, as RQ has them.
- `<run>` is a run id, `<step key>` the hex SHA-1 of a step id, `<queue>` a queue's name.
"""
_PARTITION = Keys(ANY_PARTITION)
_HEADINGS = ("key", "type", "what", "written by", "goes away")


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
