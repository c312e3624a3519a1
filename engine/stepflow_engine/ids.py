"""Ids of runs, steps and jobs. They are derived from names, so a repeated request has the same ids."""

from __future__ import annotations

import hashlib
import re

__all__ = [
    "KEY_LENGTH",
    "PARTITION_PREFIX_LENGTH",
    "StepKeys",
    "child_key",
    "idempotency_key",
    "is_item_key",
    "item_key",
    "job_id",
    "numbered_id",
    "numbered_keys",
    "partition_prefix_for",
    "round_key",
    "run_id_by_event",
    "run_id_for",
    "split_item_key",
    "split_job_id",
    "step_key",
    "undo_key",
    "with_partition_prefix",
]

RUN_ID_LENGTH = 32
KEY_LENGTH = 40
"""The length of a memo key in the first round of a run."""
ITEMS_DIGEST_DIGITS = 8
_ITEM_DIGITS = 2 * ITEMS_DIGEST_DIGITS
"""How many hex digits the key of an item of a map has behind that of the map."""
PARTITION_PREFIX_LENGTH = 4
"""The number of hex digits at the start of a run id that determine its partition."""


def step_key(step_id: str, repeat: int = 0) -> str:
    """The memo key of a step: the hex SHA-1 of its id, or of ``id:n`` for the nth repeat in a run.

    The key of ``my-step-id`` is ``e7d8a2f140845095749d60246ff1110c9d01d76a``.
    """
    text = f"{step_id}:{repeat}" if repeat else step_id
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def round_key(key: str, round: int) -> str:
    """The memo key of a step in a round of its run. The round, in hex digits, is behind the key of the first round."""
    return f"{key}{round:x}" if round else key


_NUMBERED = re.compile(r"(.+)#([1-9][0-9]{0,8})", re.DOTALL)
_MAX_REPEATS = 10_000


def numbered_keys(step_id: str, round: int = 0) -> list[str]:
    """The keys of the steps that an id may name: ``charge#2`` may be the second step with the id ``charge``.

    Args:
        round: the round of the run.
    """
    numbered = _NUMBERED.fullmatch(step_id)
    keys = [step_key(step_id), *([step_key(numbered[1], int(numbered[2]) - 1)] if numbered else [])]
    return [round_key(key, round) for key in keys]


def numbered_id(step_id: str, key: str) -> str:
    """The id by which a person names a step: the second step of a run with the id ``charge`` is ``charge#2``."""
    first = key[:KEY_LENGTH]
    repeat = next((n for n in range(_MAX_REPEATS) if step_key(step_id, n) == first), 0)
    return f"{step_id}#{repeat + 1}" if repeat else step_id


def undo_key(key: str) -> str:
    """The memo key of the step that undoes the step with ``key``. No id has this key: an id is text."""
    return hashlib.sha1(b"\xffundo " + key.encode(), usedforsecurity=False).hexdigest()


def child_key(key: str) -> str:
    """The memo key of the end of the child that the step with ``key`` starts. No id has this key: an id is text."""
    return hashlib.sha1(b"\xffchild " + key.encode(), usedforsecurity=False).hexdigest()


def item_key(key: str, digest: str, index: int) -> str:
    """The key of an item of a map: that of the map, the digest of all items, and the index of the item.

    Args:
        key: the key of the map.
        digest: 8 hex digits.
    """
    return f"{key}{digest}{index:08x}"


def is_item_key(key: str) -> bool:
    """Whether a key is that of an item of a map. A round has fewer digits than an item."""
    return len(key) >= KEY_LENGTH + _ITEM_DIGITS


def split_item_key(key: str) -> tuple[str, str, int]:
    """The key of the map, the digest of its items, and the index of an item; see `item_key`."""
    return key[:-_ITEM_DIGITS], key[-_ITEM_DIGITS:-ITEMS_DIGEST_DIGITS], int(key[-ITEMS_DIGEST_DIGITS:], 16)


class StepKeys:
    """Generates the keys of one pass over a function. It counts the repeats of each id.

    Args:
        round: the round of the run. Each round has other keys, and so other children, events and idempotency keys.
    """

    __slots__ = ("_round", "_seen")

    def __init__(self, round: int = 0) -> None:
        self._round = round
        self._seen: dict[str, int] = {}

    def next(self, step_id: str) -> str:
        """The key of the next step with this id."""
        repeat = self._seen.get(step_id, 0)
        self._seen[step_id] = repeat + 1
        key = step_key(step_id, repeat)
        return round_key(key, self._round) if self._round else key

    def __len__(self) -> int:
        return sum(self._seen.values())


def run_id_for(*parts: str) -> str:
    """A run id that is the same for the same parts (event id and function; parent run and step)."""
    text = "\0".join(parts)
    return hashlib.sha256(text.encode()).hexdigest()[:RUN_ID_LENGTH]


def partition_prefix_for(name: str) -> str:
    """The partition prefix for a name: the first digits of the run ids in that partition."""
    return run_id_for(name)[:PARTITION_PREFIX_LENGTH]


def with_partition_prefix(prefix: str, run_id: str) -> str:
    """The run id with another partition prefix.

    Args:
        prefix: hex digits, of which the first four count, such as the id of another run; ``""``: no change.
    """
    return prefix[:PARTITION_PREFIX_LENGTH] + run_id[PARTITION_PREFIX_LENGTH:] if prefix else run_id


def run_id_by_event(event_id: str, function: str, pinned_partition: str = "") -> str:
    """The id of the run of a function (``app/id``) that an event starts.

    Args:
        pinned_partition: the partition prefix of all runs of the function; ``""``: each run is in the partition of its
            event.
    """
    return with_partition_prefix(pinned_partition or partition_prefix_for(event_id), run_id_for(event_id, function))


def job_id(run_id: str, key: str = "") -> str:
    """The id of a job: the id of the run for its continuation, ``run-key`` for a planned step."""
    return f"{run_id}-{key}" if key else run_id


def idempotency_key(run_id: str, key: str) -> str:
    """The idempotency key of a step for other systems: the same for all its attempts, and of no other step."""
    return f"{run_id}:{key}"


def split_job_id(job: str) -> tuple[str, str]:
    """The run id and the step key (``""`` for a continuation) of a job id."""
    run, _, key = job.partition("-")
    return run, key
