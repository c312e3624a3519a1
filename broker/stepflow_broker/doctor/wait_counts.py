"""Compare the number of waits for an event with the waits in its indexes.

If the number is too low, events do not reach the waits. If it is too high, each event of the name costs more. The
indexes of an event are under many keys, which no script can find at once. A pass over the keys can miss an index, but
never invents one: a number below the waits that it saw is wrong for certain. A number above them is reported if it
stays above in each of five passes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from stepflow_broker.doctor.findings import Findings
from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.broker import Broker

__all__ = ["examine_counts"]

_SCAN = 1_000
_PASSES = 5
_Pairs = dict[tuple[str, str], list[str]]
"""Indexes of waits, by event and paths."""


def examine_counts(broker: Broker, keys: Keys, findings: Findings, *, repair: bool) -> None:
    """Compare the numbers of waits with the waits, in one to five passes over the keys."""
    high: set[tuple[str, str]] | None = None
    for _ in range(_PASSES):
        pairs = _pairs(broker, keys, high)
        calls = [_compare(keys, event, paths, indexes, repair=repair) for (event, paths), indexes in pairs.items()]
        answers = dict(zip(pairs, broker.execute_all(calls) if calls else (), strict=True))
        for (event, paths), (difference, repaired) in answers.items():
            if difference < 0:
                findings.add("wait_count_low", event, paths or "any", repaired=bool(repaired))
        high = {pair for pair, (difference, _) in answers.items() if difference > 0}
        if not high:
            return
    for event, paths in sorted(high or ()):
        findings.add("wait_count_high", event, paths or "any")


def _compare(keys: Keys, event: str, paths: str, indexes: Sequence[str], *, repair: bool) -> Command[tuple[int, int]]:
    key = keys("WAIT_COUNTS", event)
    return run_script("examine_counts", replies.integer_pair, (key,), int(repair), paths, *indexes)


def _pairs(broker: Broker, keys: Keys, wanted: set[tuple[str, str]] | None) -> _Pairs:
    """The events and paths that have waits or a number of them; ``wanted``: only these."""
    found: _Pairs = defaultdict(list)
    for index in _subjects(broker, keys, "WAITS"):
        paths, _, event = index.split("\n", 2)
        found[event, paths].append(index)
    for event in _subjects(broker, keys, "WAIT_COUNTS"):
        for paths in broker.execute(command(replies.texts, "HKEYS", keys("WAIT_COUNTS", event))):
            found[event, paths] += ()
    return {pair: indexes for pair, indexes in found.items() if wanted is None or pair in wanted}


def _subjects(broker: Broker, keys: Keys, kind: str) -> set[str]:
    """The ids of the keys of a kind."""
    prefix, cursor, found = keys(kind), b"0", set[str]()
    pattern = re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "*"
    while True:
        cursor, names = broker.execute(command(replies.raw, "SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN))
        found |= {name.decode().removeprefix(prefix) for name in names}
        if cursor == b"0":
            return found
