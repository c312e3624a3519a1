"""The page of the JSON output has the fields that the commands print."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from datetime import UTC, datetime

import pytest

from stepflow_broker.doctor.findings import Finding, Severity
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.audit import AuditEntry
from stepflow_broker.transitions.runs.run_record import parse_run
from stepflow_broker.views.asks import AskView
from stepflow_broker.views.attempt_view import AttemptView
from stepflow_broker.views.audit import audit_json
from stepflow_broker.views.bulk_view import BulkInfo, BulkReason
from stepflow_broker.views.error_groups import ErrorGroup
from stepflow_broker.views.explain import Reason
from stepflow_broker.views.invoke_view import InvokeView
from stepflow_broker.views.listings import QueueRecord, WorkerRecord
from stepflow_broker.views.run_details import RunDetails
from stepflow_broker.views.run_tree import RunTree
from stepflow_broker.views.run_view import view_run
from stepflow_broker.views.step_view import StepView
from stepflow_broker.views.wait_view import WaitView
from stepflow_cli.commands import listings
from stepflow_engine.failure import Failure
from tests.support.pages import ROOT

PAGE = (ROOT / "docs" / "reference" / "json-output.md").read_text()
RUN = parse_run("run1", {"status": b"waiting", "app": b"shop", "function": b"order", "event": b"null"})
assert RUN is not None
VIEW = view_run(RUN)
NOW = datetime.now(UTC)
PRINTED = {
    "stepflow runs list": {*VIEW.to_json(), "cursor"},
    "stepflow errors": set(ErrorGroup("g", "shop/order", "", "ValueError", "no", 1, NOW, NOW, "run1").to_json()),
    "stepflow runs show": set(RunDetails(RUN, [], RunTree(VIEW)).to_json()),
    "A step": set(StepView("a", "k", "done", 1).to_json()),
    "An attempt": set(AttemptView(1, "done").to_json()),
    "A wait": set(WaitView("k", "a", "", (), "", "waiting").to_json()),
    "An invoke": set(InvokeView("k", "a", "", "", "waiting").to_json()),
    "A child": set(RunTree(VIEW).to_json()),
    "A failure": set(Failure("ValueError", "no").to_json()),
    "stepflow explain": set(Reason("ended", "run1", "it ended").to_json()),
    "stepflow asks": set(AskView("run1", "shop/order", "a", "", 0, 0, {}).to_json()),
    "stepflow doctor": set(Finding("missing", Severity.ERROR, "run1", "it is missing").to_json()),
    "stepflow functions": set(listings._function_json(FunctionConfig("shop", "order", "shop"), frozenset(), 0, ())),
    "stepflow workers": {field.name for field in fields(WorkerRecord)},
    "stepflow audit": set(audit_json(AuditEntry("1-1", NOW, "shop", "cancel", "run1", "", {}))),
    "stepflow bulk show": set(BulkInfo("b", "running", "shop/order", 1, NOW).to_json()),
    "A reason of a bulk": set(BulkReason("skipped", "it was forgotten", 1, "run1").to_json()),
    "stepflow queues": {field.name for field in fields(QueueRecord)},
}


def _section(heading: str) -> str:
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def _listed(heading: str) -> set[str]:
    """The fields in the first cells of the table below a heading."""
    rows = [line.split("|")[1] for line in _section(heading).splitlines() if line.startswith("|")]
    return {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize("heading", PRINTED)
def test_the_page_has_the_fields_that_are_printed(heading: str) -> None:
    assert _listed(heading) == PRINTED[heading]


def test_every_field_that_a_command_spells_is_on_the_page() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE))
    for path in (ROOT / "cli" / "stepflow_cli" / "commands").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "print_json":
                spelled = {
                    str(key.value)
                    for made in ast.walk(call)
                    if isinstance(made, ast.Dict)
                    for key in made.keys
                    if isinstance(key, ast.Constant)
                }
                assert spelled - named == set(), path.name
