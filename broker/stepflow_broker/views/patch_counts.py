"""What the live runs of a function have decided at its patches: whether they still need the old way in the code."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.operation import Operation
from stepflow_broker.transitions.runs.run_index import RunQuery
from stepflow_broker.views.find_runs import find_page
from stepflow_engine.state_machine import LIVE

__all__ = ["PatchCounts", "read_patch_counts"]

_PAGE = 500


@dataclass(slots=True)
class PatchCounts:
    """How many live runs have decided what at a patch.

    Attributes:
        new: those that take the new way.
        old: those that take the old way.
        undecided: those that have started and not reached the patch with the new code. They may have passed it before.
    """

    new: int = 0
    old: int = 0
    undecided: int = 0

    @property
    def needs_old_way(self) -> bool:
        """Whether a live run takes the old way, or may take it."""
        return bool(self.old or self.undecided)


def read_patch_counts(
    partition: Partition, function: str, patch_ids: Collection[str]
) -> Operation[dict[str, PatchCounts]]:
    """Count the live runs of a function at some of its patches. One round trip or two for each 500 of its runs.

    Args:
        function: as ``app/function``. It need not be registered.
    """
    counts = {patch_id: PatchCounts() for patch_id in patch_ids}
    wanted, cursor = RunQuery(functions=(function,), statuses=LIVE), ""
    while True:
        page = yield from find_page(partition, wanted, cursor=cursor, limit=_PAGE, known=(function,))
        for run in page.runs:
            for patch_id, count in counts.items():
                match run.patches.get(patch_id):
                    case True:
                        count.new += 1
                    case False:
                        count.old += 1
                    case None:
                        count.undecided += run.started_at is not None
        if not (cursor := page.next_cursor):
            return counts
