"""The indexes of runs: which index has the runs that are wanted, and a page of it.

See ``lua/lib/indexes.lua`` for the kinds of indexes.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.registry.tags import pack_subjects, tag_subject
from stepflow_engine.errors import FilterError
from stepflow_engine.state_machine import RunStatus

__all__ = ["IndexPage", "Place", "RunQuery", "page_index", "parse_cursor", "read_run_functions", "read_tag_names"]

Order = Literal["created", "ended"]
_CURSOR = re.compile(r"1 (created|ended) (\d{1,16}) (\S{0,100})")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in a list of runs, which has the newest first.

    Attributes:
        time_ms: the creation time or the end time of a run, as the order of the list says.
        run_id: the run. Of runs with the same time, the one with the higher id comes first.
    """

    time_ms: int
    run_id: str

    def cursor(self, order: Order) -> str:
        """The place as text for a caller, who passes it back."""
        return base64.urlsafe_b64encode(f"1 {order} {self.time_ms} {self.run_id}".encode()).decode().rstrip("=")


_ORDERS = {"created": "creation", "ended": "the ends of the runs"}


def parse_cursor(cursor: object, order: Order) -> Place:
    """The place that a cursor names.

    Raises:
        FilterError: it is no cursor, or one of a list in another order.
    """
    try:
        if not isinstance(cursor, str) or len(cursor) > 1_000:
            raise ValueError
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (ValueError, binascii.Error):
        text = ""
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise FilterError("cursor", "cursor must be one that a page has ended with: leave it out for the first page")
    if found[1] != order:
        raise FilterError(
            "cursor",
            f"cursor is of a list in the order of {_ORDERS[found[1]]}, and this list is in the order of "
            f"{_ORDERS[order]}: use the same filters for all pages",
        )
    return Place(int(found[2]), found[3])


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Which runs are wanted.

    Attributes:
        app: only runs of this app; ``""``: any.
        functions: only runs of these functions, as ``app/function``; empty: any.
        statuses: only runs with one of these; empty: any.
        tags: only runs that have all these tags: name and value.
        since_ms, until_ms: only runs created, or ended, from the first time on and before the second, in ms since the
            epoch; ``None``: no bound.
        error_group: only runs that failed with an error of this group; ``""``: any.
        error: only runs that failed with an error of this name, or with this text in its message; ``""``: any.
        condition: a CEL expression on ``event``, the event of the run; ``""``: none.
        parent: only children of this run; ``""``: any run.
        batch: only runs of this batch: the run that executes it, or one of them; ``""``: any run.
        event_id: only runs that the event with this id started; ``""``: any.
        id_prefix: only runs whose id starts with this; ``""``: any.
    """

    app: str = ""
    functions: tuple[str, ...] = ()
    statuses: frozenset[RunStatus] = frozenset()
    tags: tuple[tuple[str, str], ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    error_group: str = ""
    error: str = ""
    condition: str = ""
    parent: str = ""
    batch: str = ""
    event_id: str = ""
    id_prefix: str = ""

    @property
    def order(self) -> Order:
        """By which time the runs are listed: of a list of ended runs only by their end, if no tag is wanted."""
        return "ended" if self.statuses and all(one.ended for one in self.statuses) and not self.tags else "created"

    @property
    def subjects(self) -> list[str]:
        """The subjects of indexes that must all list a wanted run."""
        subjects = [tag_subject(name, value) for name, value in self.tags]
        return [*subjects, *([f"error {self.error_group}"] if self.error_group else [])]

    def index_sets(self) -> Iterator[list[str]]:
        """Sets of indexes, each of which has all wanted runs, in the order of the list."""
        kind = "function " if self.order == "created" else "ended "
        if self.order == "ended" and self.statuses == {RunStatus.FAILED}:
            kind = "failed "
        yield [kind + name for name in self.functions] or [kind]
        if self.order == "ended":
            yield from ([f"error {self.error_group}"] for _ in [1] if self.error_group)
            return
        if self.statuses and not any(one.ended for one in self.statuses):
            yield ["live"]
        yield from ([tag_subject(name, value)] for name, value in self.tags)


@dataclass(frozen=True, slots=True)
class IndexPage:
    """A page of one partition.

    Attributes:
        last: the last entry that was read; ``None``: there are no more.
        read: how many entries were read.
        found: the wanted runs, the newest first.
    """

    last: Place | None
    read: int
    found: list[Place]


def page_index(
    partition: Partition, wanted: RunQuery, after: Place | None, *, limit: int, most: int
) -> Command[IndexPage]:
    """A page of the runs of a partition. Its condition, error text, parent and event id are left to the caller.

    Args:
        after: the place after which the page begins; ``None``: the newest run.
        limit: the largest number of runs.
        most: the largest number of entries that are read.
    """
    if wanted.until_ms is not None:
        until = Place(max(0, wanted.until_ms), "")
        after = until if after is None or until < after else after
    sets = list(wanted.index_sets())
    return run_script(
        "page_index",
        _read_page,
        (partition.keys("LIVE"),),
        "" if after is None else after.time_ms,
        "" if after is None else after.run_id,
        0 if wanted.since_ms is None else max(0, wanted.since_ms),
        limit,
        most,
        ",".join(sorted(wanted.statuses)),
        wanted.app,
        pack_subjects(wanted.subjects),
        pack_subjects(wanted.functions),
        len(sets),
        *[part for one in sets for part in (str(len(one)), *one)],
    )


def _read_page(reply: Sequence[Any]) -> IndexPage:
    score, run, read, found = reply
    last = Place(int(score), run.decode()) if run else None
    return IndexPage(
        last, int(read), [Place(int(at), one.decode()) for at, one in zip(found[::2], found[1::2], strict=True)]
    )


def read_run_functions(partition: Partition) -> Command[list[str]]:
    """The names of the functions that have runs in a partition."""
    return command(_shown_texts, "SMEMBERS", partition.keys("RUN_FUNCTIONS"))


def read_tag_names(partition: Partition) -> Command[list[str]]:
    """The names of the tags that runs of a partition have or had."""
    return command(_shown_texts, "SMEMBERS", partition.keys("TAG_NAMES"))


def _shown_texts(reply: Sequence[bytes]) -> list[str]:
    return [replies.shown_text(text) for text in reply]
