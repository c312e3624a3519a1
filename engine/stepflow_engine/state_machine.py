"""The state machine: the states of runs, continuations and steps, and the moves that each transition makes.

Theory of operation. Three machines describe a run.

- **run** is what users see: `RunStatus`. It is the field ``status`` of the run.
- **continuation** is the run's own job, which replays its code: `ContinuationState`. It is the field ``continuation``
  of the run. A run has at most one continuation, however many of its steps end at the same time.
- **step** is a step that has a job of its own, or that waits for a child, an event, a signal, an answer or a time:
  `StepState`. It is the field ``<step key>:state`` of the run's steps. A step that the continuation executes itself has
  no state: it moves from ``none`` to ``memo``.

While a run is live, its status follows from its continuation (`STATUS_OF`). The doctor computes it again from there.

A **transition** is one Lua script, which Redis executes atomically. A process crashes before a transition or after it,
never within it. So a crash can leave every state here behind, and each state has something that ends it:

- ``queued``: a worker that claims the job.
- ``waitlisted``: a slot that becomes free, or the end of a pause.
- ``leased``: the worker's next transition, or the end of the lease.
- ``delayed`` and ``waiting``: a timer.
- ``parked``: the end of a step.
- ``mapping``: the end of an item, which is a step too.
- ``batched``: the end of the batch.

`TRANSITIONS` is the table of all transitions and the moves that each may make. The ``MOVES`` line in the header of each
script states the same moves, and a test compares the two. Both use this grammar::

    moves   = "none" | item { "; " item }
    item    = machine " " states " -> " states | effect
    machine = "run" | "continuation" | "step"
    states  = state { "|" state }

``a|b -> c|d`` means each of ``a`` and ``b`` to each of ``c`` and ``d``. A state that is on both sides makes no move to
itself. The state ``none`` means that the run, continuation or step does not exist: not yet, or no longer.

An **effect** names moves that several transitions share (`EFFECTS`). Each is one function of the Lua libraries. It may
move other runs than the one that the transition names. A transition may make several of its moves one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

__all__ = [
    "EFFECTS",
    "LIVE",
    "NONE",
    "STATUS_OF",
    "TRANSITIONS",
    "ContinuationState",
    "Effect",
    "Machine",
    "Move",
    "RunStatus",
    "StepState",
    "Transition",
    "read_moves",
]

NONE = "none"
"""The state of a run, continuation or step that does not exist."""


class Machine(StrEnum):
    """The machines, by their names in the grammar."""

    RUN = "run"
    CONTINUATION = "continuation"
    STEP = "step"


class RunStatus(StrEnum):
    """The status of a run.

    ::

        queued ⇄ running ⇄ waiting        live
                    ↓         ↓
        completed, failed, cancelled      ended
        skipped                           ended before it started: the function's flow control refused it

    A run is ``queued`` while its next job is ready, ``running`` while a worker has its lease, and ``waiting`` while it
    needs no worker: for steps that have jobs of their own, for a retry, for a child, for an event or for a time.
    """

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def ended(self) -> bool:
        """Whether the run has ended. An ended run never becomes live again."""
        return self not in LIVE


class ContinuationState(StrEnum):
    """The state of a run's continuation.

    Attributes:
        QUEUED: its job is on a list and ready.
        WAITLISTED: it is in the wait list of a concurrency limit, a pause or a priority.
        LEASED: a worker executes it.
        DELAYED: a timer queues it: a retry, a throttle, a debounce, the start of a batch, or a later start of a client.
        BATCHED: the run is a member of a batch and ends with it.
        PARKED: the run waits for its steps. This is not stored: the run has no field ``continuation``.
    """

    QUEUED = "queued"
    WAITLISTED = "waitlisted"
    LEASED = "leased"
    DELAYED = "delayed"
    BATCHED = "batched"
    PARKED = "parked"


class StepState(StrEnum):
    """The state of a step.

    Attributes:
        QUEUED: its job is on a list and ready.
        WAITLISTED: it is in the wait list of a concurrency limit, of a pause, or of functions without code.
        LEASED: a worker executes it.
        DELAYED: a timer queues its next attempt.
        WAITING: it waits for a child, an event, a signal, an answer or a time. It has no job.
        MAPPING: it is a map whose items have not all ended. Each item is a step with a job of its own.
        MEMO: it has ended. This is not stored as a state: the memo is in the run's memos.
    """

    QUEUED = "queued"
    WAITLISTED = "waitlisted"
    LEASED = "leased"
    DELAYED = "delayed"
    WAITING = "waiting"
    MAPPING = "mapping"
    MEMO = "memo"


LIVE = frozenset({RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING})
"""The statuses of runs that have not ended."""

STATUS_OF: Mapping[ContinuationState, RunStatus] = {
    ContinuationState.QUEUED: RunStatus.QUEUED,
    ContinuationState.WAITLISTED: RunStatus.QUEUED,
    ContinuationState.LEASED: RunStatus.RUNNING,
    ContinuationState.DELAYED: RunStatus.WAITING,
    ContinuationState.BATCHED: RunStatus.WAITING,
    ContinuationState.PARKED: RunStatus.WAITING,
}
"""The status of a live run, by the state of its continuation."""

_STATES: Mapping[Machine, frozenset[str]] = {
    Machine.RUN: frozenset({NONE, *RunStatus}),
    Machine.CONTINUATION: frozenset({NONE, *ContinuationState}),
    Machine.STEP: frozenset({NONE, *StepState}),
}


@dataclass(frozen=True, slots=True)
class Move:
    """The change of one machine from one state to another."""

    machine: Machine
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Transition:
    """What a transition, or an effect, may do.

    Attributes:
        text: the moves, in the grammar of this module.
        moves: its own moves.
        effects: the names of the effects that it may have.
    """

    text: str
    moves: frozenset[Move]
    effects: frozenset[str] = frozenset()

    @property
    def all_effects(self) -> frozenset[str]:
        """Its effects, and the effects of those."""
        inner = (EFFECTS[name].transition.all_effects for name in self.effects)
        return self.effects.union(*inner)

    @property
    def all_moves(self) -> frozenset[Move]:
        """Its own moves and those of all its effects."""
        return self.moves.union(*(EFFECTS[name].transition.moves for name in self.all_effects))


@dataclass(frozen=True, slots=True)
class Effect:
    """Moves that several transitions share.

    Attributes:
        function: the function of the Lua libraries that makes them.
        why: what causes them.
    """

    function: str
    why: str
    transition: Transition


def read_moves(text: str) -> Transition:
    """Read moves in the grammar of this module.

    Raises:
        ValueError: the text does not follow the grammar, or names an unknown machine, state or effect.
    """
    moves: set[Move] = set()
    effects: set[str] = set()
    for item in () if text == NONE else text.split("; "):
        if item in EFFECTS:
            effects.add(item)
        else:
            moves |= _read_item(item)
    return Transition(text, frozenset(moves), frozenset(effects))


def _read_item(item: str) -> set[Move]:
    left, arrow, after = item.partition(" -> ")
    name, _, before = left.partition(" ")
    if not arrow or name not in set(Machine):
        raise ValueError(f"not a move or an effect: {item!r}")
    machine = Machine(name)
    states = before.split("|"), after.split("|")
    unknown = {state for side in states for state in side} - _STATES[machine]
    if unknown:
        raise ValueError(f"unknown states of a {machine} in {item!r}: {', '.join(sorted(unknown))}")
    return {Move(machine, one, other) for one, other in product(*states) if one != other}


EFFECTS: dict[str, Effect] = {}
"""The effects, by name."""
for _name, _function, _why, _text in (
    (
        "promote",
        "promote",
        "A slot of a concurrency limit is free. The first jobs of its wait list are queued.",
        "continuation waitlisted -> queued; step waitlisted -> queued",
    ),
    (
        "wake",
        "wake_run",
        "A step has ended. The run that waits for it is queued.",
        "run waiting -> queued; continuation parked -> queued|waitlisted; promote",
    ),
    (
        "cancel",
        "cancel_tree",
        "A run is cancelled, and the children that it waits for. The parent's step gets the outcome. A run with "
        "something to undo is queued for that.",
        "run queued|running|waiting -> cancelled|queued; "
        "continuation queued|waitlisted|leased|delayed|batched|parked -> none; "
        "continuation queued|waitlisted|leased|delayed|parked -> queued|waitlisted; "
        "step queued|waitlisted|leased|delayed|waiting|mapping -> none; step waiting -> memo; wake",
    ),
    (
        "hand_out",
        "MAPS",
        "The next items of a map are queued, or the map itself, which collects the results.",
        "step mapping -> queued|waitlisted; step none -> queued|waitlisted",
    ),
    (
        "end_item",
        "MAP_ITEMS",
        "An item of a map has ended, which has no memo. The next is handed out. If too many items have failed, those "
        "that no worker executes are dropped.",
        "step queued|waitlisted|delayed|waiting -> none; hand_out; promote",
    ),
    (
        "start",
        "start_or_skip",
        "A run is created. Its function's flow control may delay or skip it, cancel or skip the run that it replaces, "
        "or start a batch.",
        "run none -> queued|waiting|skipped; continuation none -> queued|waitlisted|delayed|batched; "
        "run waiting -> queued|skipped; continuation delayed -> queued|waitlisted|none; cancel",
    ),
    (
        "begin",
        "begin_run",
        "A run that a client has started for a later time is due. Its function's flow control may delay it again, skip "
        "it, cancel or skip the run that it replaces, or add it to a batch.",
        "run waiting -> skipped; continuation delayed -> batched|none; run none -> waiting; "
        "continuation none -> delayed; cancel",
    ),
):
    EFFECTS[_name] = Effect(_function, _why, read_moves(_text))

_ANY_STEP = "step queued|waitlisted|leased|delayed|waiting|mapping -> none"
_REQUEUE = "run running -> queued; continuation leased -> queued|waitlisted"

TRANSITIONS: Mapping[str, Transition] = {
    name: read_moves(text)
    for name, text in {
        # runs
        "start_runs": "start",
        "start_runs_later": "start",
        "fork_run": "start; step none -> memo",
        "settle_requeue": "none",
        "record_action": "none",
        "add_bulk_runs": "none",
        "start_bulk": "none",
        "take_bulk_runs": "none",
        "settle_bulk_runs": "none",
        "stop_bulk": "none",
        "load_run": "none",
        "load_batch": "none",
        "page_index": "none",
        "forget_runs": "none",
        "tag_run": "none",
        "record_heartbeat": "none",
        "set_values": "none",
        "finish_run": "run running -> completed|failed|queued; continuation leased -> none|queued|waitlisted; "
        f"{_ANY_STEP}; promote",
        "note_patches": "none",
        "note_undo": "none",
        "cache_result": "none",
        "note_closing": "none",
        "unpin_run": "promote",
        "note_mismatch": "none",
        "accept_mismatch": "none",
        "end_undo": "run running -> failed|cancelled; continuation leased -> none; "
        "step queued|waitlisted|leased|delayed -> none; promote",
        "retry_run": "run running -> waiting; continuation leased -> delayed; promote",
        "continue_as_new": f"{_REQUEUE}; step queued|waitlisted|leased|delayed|waiting|mapping|memo -> none; promote",
        "continue_run": "run waiting -> queued; continuation parked -> queued|waitlisted; promote",
        "cancel_run": "cancel",
        "end_batch": "run waiting -> completed|failed|cancelled; continuation batched -> none; "
        "step waiting -> memo; wake",
        # jobs
        "claim_jobs": "run queued -> running; continuation queued -> leased|waitlisted; "
        "step queued -> leased|waitlisted; promote",
        "extend_leases": "none",
        "yield_run": f"{_REQUEUE}; promote",
        "park_run": "run running -> waiting; continuation leased -> parked; promote",
        "leave_job": "run running -> queued; continuation leased -> waitlisted; step leased -> waitlisted; promote",
        "release_jobs": f"{_REQUEUE}; step leased -> queued|waitlisted; promote",
        "mend_times": "none",
        "reclaim_leases": f"{_REQUEUE}; step leased -> queued|waitlisted; promote",
        "repair_jobs": "step queued -> waitlisted; promote",
        "fire_timers": "run waiting -> queued; continuation delayed -> queued|waitlisted; "
        "step delayed -> queued|waitlisted; step waiting -> memo; cancel; begin; end_item",
        # steps
        "commit_step": "step none -> memo",
        "plan_steps": "step none -> queued|waitlisted; promote",
        "commit_planned_step": "step leased -> memo; wake",
        "fail_attempt": "step none|leased -> delayed; promote",
        "cancel_steps": "step queued|waitlisted|delayed|waiting|mapping -> none; promote; cancel; end_item",
        # maps
        "begin_map": "step none -> mapping; hand_out; promote",
        "commit_item": "step leased -> none; end_item",
        # invokes
        "invoke_child": "step none -> waiting|memo; step leased -> waiting|none; step waiting -> memo; start; end_item",
        "invoke_remote_child": "step none|leased -> waiting; end_item",
        "start_child": "step none -> waiting|memo; step waiting -> memo; start",
        "start_remote_child": "start",
        "wake_parent": "step waiting -> memo; wake; end_item",
        "wake_remote_parent": "step waiting -> memo; wake; end_item",
        "ack_message": "none",
        # events
        "send_events": "step none -> memo",
        "begin_wait": "step none -> waiting|memo",
        "route_event": "step waiting -> memo; start",
        "delay_event": "none",
        "cancel_event": "none",
        "set_aside_event": "none",
        "resend_event": "none",
        "deliver_event": "step waiting -> memo; cancel",
        "deliver_remote_event": "step waiting -> memo; cancel",
        "read_early_events": "none",
        "remove_consumers": "none",
        # signals and asks
        "begin_signal_wait": "step none -> waiting|memo",
        "send_signal": "step waiting -> memo; wake",
        "begin_ask": "step none -> waiting",
        "answer_ask": "step waiting -> memo; wake",
        # schedules, pauses, registry
        "fire_cron": "start",
        "fire_schedule": "start",
        "change_schedule": "none",
        "pause": "none",
        "resume": "none",
        "set_limit": "none",
        "reset_limit": "none",
        "forget_function": "none",
        "try_event": "none",
        "register_code": "promote",
        "register_functions": "none",
        "agree_partitions": "none",
        "check_rights": "none",
        # doctor: only with `repair`
        "check_permissions": "none",
        "examine_counts": "none",
        "examine_entries": f"{_ANY_STEP}; promote",
        "examine_runs": "run queued|running|waiting -> queued|running|waiting; "
        "run waiting -> completed|failed|cancelled; "
        "continuation leased|waitlisted|delayed|parked -> queued|waitlisted; "
        "continuation queued|waitlisted|leased|delayed|batched|parked -> none; "
        f"step leased|waitlisted|delayed -> queued|waitlisted; {_ANY_STEP}; step waiting -> memo; wake; end_item",
    }.items()
}
"""The moves of each transition, by the name of its script."""


if __name__ == "__main__":
    import sys

    from stepflow_engine.state_diagram import state_machine_section

    sys.stdout.write(state_machine_section())
