"""The diagrams and tables of the state machine in Markdown, for ``docs/concepts/state-machine.md``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stepflow_engine.state_machine import EFFECTS, NONE, STATUS_OF, TRANSITIONS, Machine, Move, Transition

__all__ = ["state_machine_section"]

_OUTSIDE = "[*]"
"""The state before the first and after the last, in Mermaid."""
_NOT_DRAWN = "examine_"
"""The transitions of the doctor repair states. They are in the table only."""


def state_machine_section() -> str:
    """The text between the markers of the page."""
    parts = [_diagram(machine) for machine in Machine]
    return "\n".join([*parts, _statuses(), _effects(), _transitions()])


def _diagram(machine: Machine) -> str:
    labels: dict[Move, list[str]] = {}
    for name, transition in _named():
        for move in transition.moves:
            if move.machine is machine:
                labels.setdefault(move, []).append(name)
    edges = sorted(f"    {_node(move.before)} --> {_node(move.after)}: {', '.join(labels[move])}" for move in labels)
    return "\n".join([f"### The {machine}", "", "```mermaid", "stateDiagram-v2", *edges, "```", ""])


def _named() -> Iterator[tuple[str, Transition]]:
    """The effects and transitions of the diagram, each once with its own moves."""
    for name, effect in EFFECTS.items():
        yield f"({name})", effect.transition
    for name, transition in TRANSITIONS.items():
        if not name.startswith(_NOT_DRAWN):
            yield name, transition


def _node(state: str) -> str:
    return _OUTSIDE if state == NONE else state


def _statuses() -> str:
    rows = [(f"`{continuation}`", f"`{status}`") for continuation, status in STATUS_OF.items()]
    return _table("The status of a live run", ("continuation", "status of the run"), rows)


def _effects() -> str:
    rows = [(f"`{name}`", effect.why, _code(effect.transition.text)) for name, effect in EFFECTS.items()]
    return _table("Effects", ("effect", "cause", "moves"), rows)


def _transitions() -> str:
    rows = [(f"`{name}`", _code(transition.text)) for name, transition in sorted(TRANSITIONS.items())]
    return _table("Transitions", ("transition", "moves"), rows)


def _code(moves: str) -> str:
    return "<br>".join(f"`{item}`" for item in moves.replace("|", "\\|").split("; "))


def _table(title: str, headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join([f"### {title}", "", *(f"| {' | '.join(cells)} |" for cells in lines), ""])
