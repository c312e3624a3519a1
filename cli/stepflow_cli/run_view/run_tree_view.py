"""The tree of runs on the terminal: which run invoked which, which waits for which, and until when."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text
from rich.tree import Tree

from stepflow_broker.protocol.clock import REAL_CLOCK
from stepflow_broker.views.invoke_view import InvokeView
from stepflow_broker.views.run_tree import RunTree
from stepflow_cli.formatting import brief_failure, cut, printable, span, state_text, unserved, waits_until
from stepflow_cli.run_view.wait_text import wait_texts

__all__ = ["run_tree"]

_ONE_LINE_WIDTH = 120
_LONGEST_NAME = 60
_LONGEST_STEP = 32
_OUTCOMES = {
    "timeout": "timed out waiting",
    "not_found": "did not find the function",
}


def run_tree(tree: RunTree, width: int) -> Tree | None:
    """The tree for a terminal of this width in cells; ``None`` for a run without parent and children.

    On a narrow terminal the run ids are on lines of their own, so that they are not cut.
    """
    if tree.parent is None and not tree.children and not tree.hidden:
        return None
    renderer = _TreeRenderer(REAL_CLOCK.now_ms(), width >= _ONE_LINE_WIDTH, tree.run.id)
    if tree.parent is None:
        return renderer.render(tree)
    rendered = Tree(renderer.label(tree.parent), guide_style="dim")
    rendered.children.append(renderer.render(tree))
    return rendered


class _TreeRenderer:
    """Renders the runs of one tree.

    Attributes:
        now: the time, in milliseconds since the epoch.
        one_line: whether the id of a run is on the same line as its name.
        shown_id: the id of the run that the command shows.
    """

    def __init__(self, now: int, one_line: bool, shown_id: str) -> None:
        self.now = now
        self.one_line = one_line
        self.shown_id = shown_id

    def render(self, node: RunTree) -> Tree:
        """A run with the runs below it."""
        rendered = Tree(self.label(node), guide_style="dim")
        rendered.children += [self.render(child) for child in node.children]
        if node.hidden:
            rendered.add(Text(f"{node.hidden:,} more, not shown", style="dim"))
        return rendered

    def label(self, node: RunTree) -> Text:
        """A run: the step that invoked it, its function, status, duration and id, and notes below."""
        head = self._head(node)
        here = Text("  ← this run" if node.run.id == self.shown_id else "", style="cyan")
        run_id = Text(node.run.id, style="dim")
        text = Text.assemble(head, "  ", run_id, here) if self.one_line else Text.assemble(head, here, "\n", run_id)
        for note in self._notes(node):
            text.append("\n").append_text(note)
        return text

    def _head(self, node: RunTree) -> Text:
        text = Text()
        if node.invoke is not None:
            text.append(f"{cut(printable(node.invoke.step_id), _LONGEST_STEP)} → ", style="dim")
        text.append(cut(printable(node.run.name), _LONGEST_NAME), style="bold")
        text.append("  ").append_text(state_text(node.run.status))
        if node.run.started_at is not None:
            text.append(f"  {span(node.run.started_at, node.run.ended_at or self.now)}")
        return text

    def _notes(self, node: RunTree) -> Iterator[Text]:
        run = node.run
        if node.invoke is not None and (wait := self._parent_wait(node.invoke)):
            yield Text(wait, style="yellow")
        yield from (Text(text, style="yellow") for text in wait_texts(run.waits, self.now))
        if node.served is False:
            yield Text(unserved(run.queue), style="yellow")
        if run.blocked:
            yield Text(printable(run.blocked), style="yellow")
        if run.reason:
            yield Text(printable(run.reason), style="yellow")
        elif run.failure is not None:
            yield Text(printable(brief_failure(run.failure, 120)), style="red" if run.ended_at else "yellow")

    def _parent_wait(self, invoke: InvokeView) -> str:
        """Until when the parent's step waits, or why it stopped waiting although the child continues."""
        if invoke.waits_until is not None:
            return f"its parent waits {waits_until(invoke.waits_until, self.now)}"
        return f"its parent {_OUTCOMES[invoke.outcome]}" if invoke.outcome in _OUTCOMES else ""
