"""The state machine agrees with itself, with the scripts, and with its page in the docs."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from stepflow_broker.protocol.lua_states import lua_states
from stepflow_broker.protocol.scripts import script_names
from stepflow_engine.state_diagram import state_machine_section
from stepflow_engine.state_machine import (
    EFFECTS,
    LIVE,
    NONE,
    STATUS_OF,
    TRANSITIONS,
    ContinuationState,
    Machine,
    Move,
    RunStatus,
    StepState,
    read_moves,
)
from tests.unit.test_lua import FOLDER, LIBRARIES, header

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "state-machine.md"
MARKERS = re.compile(r"<!-- generated: state machine -->\n(.*)<!-- end -->", re.DOTALL)
EVERY_MOVE = frozenset().union(*(transition.all_moves for transition in TRANSITIONS.values()))
_RQ_STATUSES = {"deferred", "started", "scheduled", "queued", "failed"}
_CODE = {str(path.relative_to(FOLDER)): re.sub(r"--.*", "", path.read_text()) for path in FOLDER.glob("*/*.lua")}


# -- the table ---------------------------------------------------------------------


def test_every_script_has_its_moves_in_the_table() -> None:
    assert set(TRANSITIONS) == set(script_names())


def test_every_state_is_entered_and_every_live_state_is_left() -> None:
    for machine, states in (
        (Machine.RUN, RunStatus),
        (Machine.CONTINUATION, ContinuationState),
        (Machine.STEP, StepState),
    ):
        entered = {move.after for move in EVERY_MOVE if move.machine is machine}
        left = {move.before for move in EVERY_MOVE if move.machine is machine}
        final = {StepState.MEMO, *RunStatus} - LIVE
        assert set(states) <= entered
        assert set(states) - final <= left
        assert left & final <= {StepState.MEMO}, "a memo goes with its round; see continue_as_new"


def test_the_status_of_a_live_run_follows_its_continuation() -> None:
    for name, transition in TRANSITIONS.items():
        for move in transition.all_moves:
            if move.machine is Machine.CONTINUATION and NONE not in (move.before, move.after):
                before = STATUS_OF[ContinuationState(move.before)]
                after = STATUS_OF[ContinuationState(move.after)]
                assert before is after or Move(Machine.RUN, before, after) in transition.all_moves, (name, move)


def test_moves_are_read_as_the_product_of_their_sides_without_moves_to_themselves() -> None:
    assert read_moves("run queued|running -> queued|failed; wake").moves == {
        Move(Machine.RUN, "queued", "failed"),
        Move(Machine.RUN, "running", "queued"),
        Move(Machine.RUN, "running", "failed"),
    }
    assert read_moves("run queued -> failed; wake").all_effects == {"wake", "promote"}
    assert not read_moves("none").all_moves


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        "run queued",
        "run queued -> gone",
        "job queued -> leased",
        "step waiting -> memo;wake",
        "step running -> memo",
    ],
)
def test_what_does_not_follow_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a move|unknown states"):
        read_moves(text)


# -- the scripts -------------------------------------------------------------------


@pytest.mark.parametrize("name", script_names())
def test_the_header_states_the_moves_of_the_table(name: str) -> None:
    stated = read_moves(re.sub(r" {2,}", " ", header(name).fields["MOVES"]))
    assert stated.moves == TRANSITIONS[name].moves
    assert stated.effects == TRANSITIONS[name].effects


@cache
def _functions() -> dict[str, str]:
    """The functions and tables of the libraries, by name, with their code."""
    found: dict[str, str] = {}
    for library in LIBRARIES:
        chunks = re.split(r"^(?=local |function )", _CODE[f"lib/{library}.lua"], flags=re.MULTILINE)
        for chunk in chunks:
            if name := re.match(r"(?:local )?(?:function )?(\w+)", chunk):
                found[name[1]] = found.get(name[1], "") + chunk
    return found


def _reached(code: str) -> set[str]:
    """The functions of the libraries that code calls, and those that these call."""
    found: set[str] = set()
    waiting = [code]
    while waiting:
        names = (set(re.findall(r"\w+", waiting.pop())) & _functions().keys()) - found
        found |= names
        waiting += [_functions()[name] for name in names]
    return found


@pytest.mark.parametrize("name", script_names())
def test_a_script_has_the_effects_of_the_functions_that_it_calls(name: str) -> None:
    reached = _reached(re.sub(r"--.*", "", header(name).body))
    assert TRANSITIONS[name].all_effects == {effect for effect in EFFECTS if EFFECTS[effect].function in reached}


def test_an_effect_has_the_effects_of_the_functions_that_it_calls() -> None:
    for name, effect in EFFECTS.items():
        reached = _reached(_functions()[effect.function])
        expected = {other for other in EFFECTS if EFFECTS[other].function in reached} - {name}
        assert effect.transition.all_effects == expected


@pytest.mark.parametrize("path", _CODE)
def test_states_in_lua_are_states_of_the_machine(path: str) -> None:
    code = re.sub(r"'H(DEL|MGET)',[^)]*\)", "", _CODE[path])  # fields without values
    continuations = re.findall(r"continuation(?: [=~]=|'(?:\) [=~]=|,)) '(\w+)'", code)
    steps = re.findall(r":state'(?:\) [=~]=|,) '(\w+)'", code)
    either = re.findall(r"\b(?:state|truth_of\(\w+\)|state\[1\]|step\[1\]|step\.state) [=~]= '(\w+)'", code)
    statuses = re.findall(r"status(?: [=~]=|'(?:\) [=~]=|,)) '(\w+)'", code)
    assert set(continuations) <= set(ContinuationState)
    assert set(steps) <= set(StepState) - {StepState.MEMO}
    assert set(either) <= {*ContinuationState, *StepState} - {StepState.MEMO}
    assert set(statuses) <= {*RunStatus} | _RQ_STATUSES


def test_the_tables_of_the_scripts_are_those_of_the_machine() -> None:
    assert lua_states("LIVE_STATUS") == "local LIVE_STATUS = {queued = true, running = true, waiting = true}\n"
    (text,) = re.findall(r"\{(.*)\}", lua_states("STATUS_OF"))
    assert dict(re.findall(r"(\w+) = '(\w+)'", text)) == STATUS_OF
    assert not lua_states("")


# -- the docs ----------------------------------------------------------------------


def test_the_page_has_the_diagrams_of_the_machine() -> None:
    found = MARKERS.search(PAGE.read_text())
    assert found, f"{PAGE} has no markers"
    assert found[1] == state_machine_section(), (
        "copy what `python -m stepflow_engine.state_machine` prints between them"
    )
