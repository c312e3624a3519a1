"""The page of keys and fields: ``python -m stepflow_broker.protocol.keys_doc > docs/reference/redis-keys.md``.

It comes from `KEYS`, `RUN_FIELDS` and `STEP_FIELDS`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from stepflow_broker.protocol.keys import ANY_PARTITION, KEYS, Key, Keys
from stepflow_broker.protocol.run_fields import RUN_FIELDS, STEP_FIELDS, HashField
from stepflow_engine.product import KEY_PREFIX, NAME

__all__ = ["keys_page"]

_PREAMBLE = """\
# Redis keys

All keys and channels of PRODUCT. Look up what a key means when you inspect a server:

```sh
redis-cli HGETALL PREFIX:run:4f1c0d8e7a2b4c5d9e8f7a6b5c4d3e2f   # one run
redis-cli ZCARD PREFIX:live                                     # how many runs are live
redis-cli XLEN PREFIX:events                                    # events that no worker has routed yet
```

Read keys freely. Never write them: use the commands of `PRODUCT`. Do not edit this page:
`python -m stepflow_broker.protocol.keys_doc > docs/reference/redis-keys.md` generates it from `keys.py` and
`run_fields.py` in `broker/stepflow_broker/protocol`. Tests compare it with the scripts.

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
- A name in the columns "written by" and "deleted by" is a script, or a function of `lua/lib` or of Python.
  `APPLY.<kind>` is a start rule in `lua/lib/start_rules.lua`. `PRODUCT doctor --repair` can also change and delete
  keys.
- `<run>` is a run id, `<step key>` is the hex SHA-1 of a step id, `<queue>` is the name of a queue.
"""
_FIELDS = """\

## Fields of a run

The fields of the hash `PREFIX:run:<run>`. A field that nothing deletes stays for as long as the hash.

RUN_FIELDS
## Fields of steps

The fields of the hash `PREFIX:steps:<run>`, for each step that has not ended. `<key>` is the key of the step.

STEP_FIELDS"""
_PARTITION = Keys(ANY_PARTITION)
_HEADINGS = ("key", "type", "contents", "written by", "deleted by", "stays")
_FIELD_HEADINGS = ("field", "type", "meaning", "written by", "deleted by")


def keys_page() -> str:
    """The page, in Markdown."""
    shared = ", ".join(f"`{_shown(key)}`" for key in KEYS if not _PARTITION(key.name).startswith(ANY_PARTITION))
    keys = _table([_HEADINGS, *[_row(key) for key in KEYS]])
    runs, steps = (_table([_FIELD_HEADINGS, *[_field_row(one) for one in all]]) for all in (RUN_FIELDS, STEP_FIELDS))
    page = _PREAMBLE.replace("SHARED", shared) + "\n" + keys
    page += _FIELDS.replace("RUN_FIELDS", runs).replace("STEP_FIELDS", steps)
    return page.replace("PREFIX:", f"{KEY_PREFIX}:").replace("PRODUCT", NAME)


def _table(rows: list[tuple[str, ...]]) -> str:
    """A table with its headings in the first row."""
    lines = [f"| {' | '.join(row)} |\n" for row in rows]
    return "".join([lines[0], f"| {' | '.join('---' for _ in rows[0])} |\n", *lines[1:]])


def _row(key: Key) -> tuple[str, ...]:
    writers, deleters = _listed(key.writers.split()), _listed(key.deleters.split())
    cells = (f"`{_shown(key)}`", key.type, key.what, writers, deleters, key.lifetime)
    return tuple(_in_cell(cell) for cell in cells)


def _field_row(field: HashField) -> tuple[str, ...]:
    writers, deleters = _listed(field.writers), _listed(field.deleters)
    return tuple(_in_cell(cell) for cell in (f"`{field.name}`", field.type, field.meaning, writers, deleters))


def _listed(names: Iterable[str]) -> str:
    return ", ".join("RQ" if name == "RQ" else f"`{name}`" for name in names)


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
