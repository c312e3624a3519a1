"""The tree of a family: who invoked whom, who waits for whom, and until when."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text
from rich.tree import Tree

from stepflow_broker.views.invoke_view import Invoke
from stepflow_broker.views.run_node import RunNode
from stepflow_broker.views.run_tree import RunTree
from stepflow_cli.formatting import brief_failure, cut, now_ms, printable, span, state_text, unserved, waits_until
from stepflow_cli.run_view.wait_text import wait_texts

__all__ = ["run_tree"]

_ONE_LINE_WIDTH = 120
_LONGEST_NAME = 60
_LONGEST_STEP = 32
_ENDS = {"timeout": "gave up waiting: time-out", "not_found": "found no such function"}


def run_tree(family: RunTree, width: int) -> Tree | None:
    """The tree, for a terminal of this width in cells; ``None`` for a run that is alone.

    A narrow terminal gets the ids of the runs on lines of their own, so that they stay whole.
    """
    if family.parent is None and not family.run.children and not family.run.hidden:
        return None
    look = _Look(now_ms(), width >= _ONE_LINE_WIDTH, family.run.run_id)
    if family.parent is None:
        return look.tree(family.run)
    tree = Tree(look.label(family.parent), guide_style="dim")
    tree.children.append(look.tree(family.run))
    return tree


class _Look:
    """How runs are shown in one tree.

    Attributes:
        now: the time, in milliseconds since the epoch.
        one_line: whether a run's id stands beside it.
        asked: the run that was asked for.
    """

    def __init__(self, now: int, one_line: bool, asked: str) -> None:
        self.now = now
        self.one_line = one_line
        self.asked = asked

    def tree(self, member: RunNode) -> Tree:
        """A run with those below it."""
        tree = Tree(self.label(member), guide_style="dim")
        tree.children += [self.tree(child) for child in member.children]
        if member.hidden:
            tree.add(Text(f"{member.hidden:,} more, not shown", style="dim"))
        return tree

    def label(self, member: RunNode) -> Text:
        """A run: the step that invoked it, its function, state, duration and id, and what is to be said of it."""
        head = self._head(member)
        here = Text("  ← this run" if member.run_id == self.asked else "", style="cyan")
        run_id = Text(member.run_id, style="dim")
        text = Text.assemble(head, "  ", run_id, here) if self.one_line else Text.assemble(head, here, "\n", run_id)
        for note in self._notes(member):
            text.append("\n").append_text(note)
        return text

    def _head(self, member: RunNode) -> Text:
        text = Text()
        if member.invoke is not None:
            text.append(f"{cut(printable(member.invoke.step_id), _LONGEST_STEP)} → ", style="dim")
        text.append(cut(printable(member.name), _LONGEST_NAME), style="bold")
        text.append("  ").append_text(state_text(member.status))
        if member.started_at is not None:
            text.append(f"  {span(member.started_at, member.ended_at or self.now)}")
        return text

    def _notes(self, member: RunNode) -> Iterator[Text]:
        if member.invoke is not None and (wait := self._wait(member.invoke)):
            yield Text(wait, style="yellow")
        yield from (Text(text, style="yellow") for text in wait_texts(member.waits, self.now))
        if member.served is False:
            yield Text(unserved(member.queue), style="yellow")
        if member.blocked:
            yield Text(printable(member.blocked), style="yellow")
        if member.reason:
            yield Text(printable(member.reason), style="yellow")
        elif member.failure is not None:
            yield Text(printable(brief_failure(member.failure, 120)), style="red" if member.ended_at else "yellow")

    def _wait(self, invoke: Invoke) -> str:
        """What the parent's step does, or why it does not wait any more though the child goes on."""
        if invoke.waits_until is not None:
            return f"its parent waits {waits_until(invoke.waits_until, self.now)}"
        return f"its parent {_ENDS[invoke.outcome]}" if invoke.outcome in _ENDS else ""
