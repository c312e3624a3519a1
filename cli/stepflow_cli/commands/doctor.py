"""``stepflow doctor``: check the server and the data of all runs, and repair the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import click
from rich.text import Text

from stepflow_broker.doctor.examine import examine
from stepflow_broker.doctor.findings import Finding, Severity
from stepflow_broker.doctor.server import examine_server
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.partitions import check_partitions, partition_for
from stepflow_broker.transitions.audit import Action, record_action
from stepflow_cli.exit_codes import EPILOG, ExitCode
from stepflow_cli.formatting import console, echo, print_json, printable
from stepflow_cli.options import output_option, server_options
from stepflow_cli.server import actor, find_url
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_engine.errors import BackendUnavailableError

__all__ = ["doctor"]

_COLORS = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.ERROR: "red"}


@click.command(epilog=EPILOG)
@click.option(
    "--repair",
    is_flag=True,
    help="Repair inconsistent data: queue missing jobs again, and remove data that belongs to no run.",
)
@output_option
@server_options
def doctor(*, repair: bool, output: str, redis_url: str | None) -> int:
    """Check the server and all runs on it. Workers may run meanwhile. The exit code is 1 if errors remain."""
    broker = Broker(find_url(redis_url))
    partition = partition_for(broker.url, NO_ENCRYPTION)  # the doctor moves payloads, and opens none
    findings = examine_server(broker, partition.keys)
    try:
        check_partitions(broker, partition.keys, decide=False)
        findings += examine(broker, partition, repair=repair)
        _record(broker, partition, findings)
    except BackendUnavailableError:
        if output != "json":
            _print(findings, repair=repair)  # a finding says which cluster node is unavailable
        raise
    if output == "json":
        print_json([finding.to_json() for finding in findings])
    else:
        _print(findings, repair=repair)
    return ExitCode.FAILED if any(finding.is_open for finding in findings) else ExitCode.OK


def _record(broker: Broker, partition: Partition, findings: Sequence[Finding]) -> None:
    """Record what was repaired in the audit log."""
    repaired: Counter[str] = Counter()
    for finding in findings:
        repaired[finding.code] += finding.count if finding.repaired else 0
    repaired = +repaired
    if repaired:
        broker.execute(record_action(partition, Action(actor(), "repair", "all data", details=repaired)))


def _print(findings: Sequence[Finding], *, repair: bool) -> None:
    out = console()
    for finding in findings:
        line = Text(f"{finding.severity.value:<8}", style=_COLORS[finding.severity])
        out.print(
            line.append(
                f"{finding.code:<20}  {printable(finding.text)}{_repair_text(finding, repair=repair)}", style=""
            )
        )
    echo(_summary(findings))


def _repair_text(finding: Finding, *, repair: bool) -> str:
    """Whether it was repaired, or what ``--repair`` would do."""
    if finding.repaired:
        return "; repaired"
    if repair or finding.severity is Severity.OK:
        return ""
    return f"; --repair {finding.repair}" if finding.repair else ""


def _summary(findings: Sequence[Finding]) -> str:
    repaired = sum(finding.count for finding in findings if finding.repaired)
    errors = sum(finding.count for finding in findings if finding.is_open)
    warnings = sum(
        finding.count for finding in findings if finding.severity is Severity.WARNING and not finding.repaired
    )
    done = f", {repaired:,} repaired" if repaired else ""
    return f"{_count(errors, 'error')}, {_count(warnings, 'warning')}{done}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"
