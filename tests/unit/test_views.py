"""The JSON output of the read models: its fields and their order are part of the interface of the commands."""

from __future__ import annotations

from stepflow_broker.transitions.runs.run_record import parse_run
from stepflow_broker.views.invoke_view import InvokeView
from stepflow_broker.views.run_details import RunDetails
from stepflow_broker.views.run_tree import RunTree
from stepflow_broker.views.run_view import RunView, forgotten_run, view_run

RUN_FIELDS = {
    "status": b"waiting",
    "app": b"shop",
    "function": b"order",
    "queue": b"shop",
    "created_at": b"1735689600125",
    "event": b"null",
}


def run_view(**fields: bytes) -> RunView:
    """The view of a run that is stored with these fields."""
    run = parse_run("run1", {**RUN_FIELDS, **fields})
    assert run is not None
    return view_run(run, delayed_by="throttled")


def test_a_run_has_the_fields_of_runs_list() -> None:
    fields = (
        "run_id app function queue status attempt created_at started_at ended_at version pinned "
        "blocked blocked_by starts_at paused waits tags error_group forked_from forks undoing patches round error"
    )
    shown = run_view().to_json()
    assert list(shown) == fields.split()
    assert (shown["created_at"], shown["started_at"]) == ("2025-01-01T00:00:00.125Z", None)


def test_a_tree_has_the_run_its_invoke_step_and_its_children() -> None:
    child = RunTree(
        forgotten_run("run2", "shop/leaf"), invoke=InvokeView("k", "leaf", "shop/leaf", "run2", "completed")
    )
    tree = RunTree(run_view(), served=True, children=(child,), hidden=2)
    fields = (
        "step outcome waits_until run_id app function queue served status created_at started_at ended_at "
        "blocked reason error waits children children_not_shown"
    )
    [shown] = tree.to_json()["children"]
    assert list(tree.to_json()) == list(shown) == fields.split()
    assert (shown["step"], shown["outcome"], shown["status"], shown["queue"]) == (
        "leaf",
        "completed",
        "forgotten",
        None,
    )


def test_the_parent_of_a_run_has_no_children_and_the_step_that_invoked_the_run() -> None:
    invoke = InvokeView("k", "call", "", "run1", "waiting", 1735689600125)
    tree = RunTree(run_view(), invoke=invoke, parent=RunTree(forgotten_run("run0", "")))
    shown = tree.parent_json()
    assert shown is not None
    assert (shown["run_id"], shown["step"], shown["waits_until"]) == ("run0", "call", "2025-01-01T00:00:00.125Z")
    assert "children" not in shown
    assert RunTree(run_view()).parent_json() is None


def test_details_have_the_fields_of_runs_show() -> None:
    run = parse_run("run1", RUN_FIELDS)
    assert run is not None
    fields = (
        "run_id app function queue served status attempt created_at started_at ended_at due_at worker version pinned "
        "batch blocked paused reason forked_from forked_at forked_by forks tags error_group values signals undoing "
        "patches round mismatch round_started_at rounds event output error history steps parent children "
        "children_not_shown"
    )
    assert list(RunDetails(run, [], RunTree(view_run(run))).to_json()) == fields.split()


def test_flow_control_that_delays_or_skips_a_run_is_named() -> None:
    assert run_view(continuation=b"delayed").blocked_by == "throttled"
    assert run_view(continuation=b"delayed", started_at=b"1735689600200").blocked_by == ""
    assert run_view(continuation=b"waitlisted").blocked_by == (
        "waits for a slot, for its turn by priority, or for a worker with its code"
    )
    run = parse_run("run1", {**RUN_FIELDS, "continuation": b"waitlisted"})
    assert run is not None
    limited = view_run(run, limits=[(1, "shop/a"), (5, "shop/b:event.data.x=1")])
    assert limited.blocked_by == "waits for a slot of shop/a, limit 1 and shop/b:event.data.x=1, limit 5"
    assert run_view(status=b"skipped", reason=b"rate limited").blocked_by == "rate limited"
