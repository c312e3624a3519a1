"""Deliberate bugs in the scripts of invokes, which the tests must find."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stepflow_broker.protocol import scripts

__all__ = ["AWAY_MUTATIONS", "MUTATIONS", "UNDO_MUTATIONS", "Mutation", "mutated"]


@dataclass(frozen=True, slots=True)
class Edit:
    """One change to a Lua file.

    Attributes:
        file: below ``lua/``.
        old: what is there, as often as ``times`` says.
        new: what is put in its place.
    """

    file: str
    old: str
    new: str
    times: int = 1

    def apply(self, folder: Path) -> None:
        path = folder / self.file
        path.write_text(self.applied(path.read_text()))

    def applied(self, text: str) -> str:
        """The text of the file with the change."""
        assert text.count(self.old) == self.times, f"{self.file} has changed: {self.old!r} is not in it {self.times}×"
        return text.replace(self.old, self.new)


@dataclass(frozen=True, slots=True)
class Mutation:
    """A bug, by what is wrong, and the changes that make it."""

    name: str
    edits: tuple[Edit, ...]

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


_GUARD = """\
  elseif redis.call('HEXISTS', MEMOS .. run, key) == 1 or redis.call('HEXISTS', STEPS .. run, key .. ':state') == 1 then
    return 0
"""
_LEASED = "return was.continuation == 'leased'"
_WAKE = "wake_run(run, was, key, position, clock(ARGV[1]), ARGV[3])\n"
_WAKE_EARLY = """
  if was.parent and is_live(was.parent) and not read_run(was.parent).continuation then
    queue_run(was.parent, read_run(was.parent), now)
  end
"""
_ADD = "redis.call('XADD', FINISHED, '*', kind, run)"
_TELL = "redis.call('PUBLISH', RUN_ENDED .. run, status)\n"
_DROP_TIMER = "  redis.call('ZREM', TIMEOUTS, 'wait:' .. member)\n"
_STILL_WAITING = "if step[1] == 'waiting' then"
_WAITS_FOR_CHILD = "  if step[1] ~= 'waiting' or step[2] ~= child then return 0 end\n"

MUTATIONS = (
    Mutation(
        "the fence is not checked",
        (
            Edit("lib/state.lua", "return was.continuation == 'leased' and was.lease == fence", _LEASED),
            Edit("lib/state.lua", "return state[1] == 'leased' and state[2] == fence,", "return state[1] == 'leased',"),
        ),
    ),
    Mutation(
        "the parent is woken before the memo is there",
        (
            Edit("lib/runs.lua", _TELL, f"{_TELL}{_WAKE_EARLY}"),
            Edit("invokes/wake_parent.lua", _WAKE, ""),
        ),
    ),
    Mutation("an invoke that comes again waits again", (Edit("lib/remote_children.lua", _GUARD, ""),)),
    Mutation(
        "an invoke that comes again starts again",
        (
            Edit("lib/remote_children.lua", _GUARD, ""),
            Edit("invokes/invoke_child.lua", "is_new = redis.call('EXISTS', RUN .. child) == 0", "is_new = true"),
        ),
    ),
    Mutation(
        "the stream is trimmed ahead of what is acknowledged",
        (Edit("lib/runs.lua", _ADD, _ADD.replace("'*'", "'MAXLEN', 1, '*'")),),
    ),
    Mutation(
        "the finished event is dropped before the step is resolved",
        (Edit("lib/runs.lua", _ADD, f"{_ADD}\n    redis.call('XTRIM', FINISHED, 'MAXLEN', 0)"),),
    ),
    Mutation(
        "a timeout does not look whether the step still waits",
        (Edit("jobs/fire_timers.lua", _STILL_WAITING, "if true then"), Edit("lib/waits.lua", _DROP_TIMER, "")),
    ),
    Mutation(
        "a finish does not look whether the step still waits",
        (Edit("lib/invokes.lua", _WAITS_FOR_CHILD, """  step[3] = step[3] or '"id":"late"}'\n"""),),
    ),
    Mutation("a finish wakes nobody", (Edit("invokes/wake_parent.lua", _WAKE, ""),)),
    Mutation(
        "a timeout wakes nobody",
        (Edit("jobs/fire_timers.lua", "      wake_run(run, was, key, position, now, '')\n", ""),),
    ),
    Mutation(
        "a cancelled child tells nobody",
        (Edit("lib/cancellation.lua", "wake_run(parent, was, key, position, now, '')", ""),),
    ),
    Mutation(
        "a run is parked though a memo has come",
        (Edit("jobs/park_run.lua", "if redis.call('LLEN', KEYS[2]) > tonumber(ARGV[4]) then return 2 end\n", ""),),
    ),
    Mutation(
        "a run is queued as often as it is woken",
        (
            Edit(
                "lib/runs.lua", "  if not was.continuation then return", "  if was.continuation ~= 'leased' then return"
            ),
            Edit("steps/commit_planned_step.lua", "was.continuation and", "was.continuation == 'leased' and"),
        ),
    ),
)

_KEPT = "    redis.call('HSET', RUN .. run, 'finished', entry, 'keep_ms', keep_ms)\n"
_WAKE_AWAY = "wake_run(run, was, key, position, now, ARGV[9])\n"

AWAY_MUTATIONS = (
    Mutation(
        "what asks for a child stays when its end is told",
        (Edit("invokes/wake_remote_parent.lua", "ack_entry(ARGV[8])\n", ""),),
    ),
    Mutation(
        "a cancelled parent leaves its child elsewhere",
        (Edit("lib/cancellation.lua", "for _, child in ipairs(remote) do", "for _, child in ipairs({}) do"),),
    ),
    Mutation(
        "an end does not look whether the step still waits",
        (Edit("lib/invokes.lua", _WAITS_FOR_CHILD, """  step[3] = step[3] or '"id":"late"}'\n"""),),
    ),
    Mutation("an end wakes nobody", (Edit("invokes/wake_remote_parent.lua", _WAKE_AWAY, ""),)),
    Mutation(
        "a child is forgotten before its parent knows",
        (Edit("lib/runs.lua", _KEPT, f"{_KEPT}    expire_run(run, keep_ms)\n"),),
    ),
)

UNDO_MUTATIONS = (
    Mutation(
        "a run that is cancelled ends without undoing its steps",
        (Edit("lib/cancellation.lua", "if plan == 'due' then", "if plan == 'never' then"),),
    ),
    Mutation(
        "a run that undoes its steps is cancelled again",
        (Edit("lib/cancellation.lua", "if was.live and plan ~= 'begun' then", "if was.live then"),),
    ),
    Mutation(
        "the steps of a run that undoes its steps go on",
        (
            Edit(
                "lib/undo.lua",
                "local children, jobs, remote = drop_work(run, was, false, now)",
                "local children, jobs, remote = {}, {}, {}",
            ),
        ),
    ),
    Mutation(
        "a run that undoes its steps is ended by anyone",
        (Edit("runs/end_undo.lua", "if not holds_run(was, ARGV[3]) or not plan[1] then", "if not plan[1] then"),),
    ),
)


@contextlib.contextmanager
def mutated(mutation: Mutation, folder: Path) -> Iterator[None]:
    """Have the broker send scripts with a bug, made in ``folder``."""
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as after:
        lua = shutil.copytree(str(scripts._FOLDER), folder / "lua")
        for edit in mutation.edits:
            edit.apply(Path(lua))
        patch.setattr(scripts, "_FOLDER", Path(lua))
        scripts.script.cache_clear()
        after.callback(scripts.script.cache_clear)
        yield
