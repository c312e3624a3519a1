"""The generated parts of the documentation: ``python -m tests.support.reference`` writes them, a test compares them.

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``. The home of each fact is the code: the
commands of click, the docstrings of the public names, the tables of findings and log events, the constants of limits.
"""

# ruff: noqa: E501  the tables have one row a line

from __future__ import annotations

import ast
import enum
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import click

import stepflow
import stepflow.testing as testing
from stepflow_broker.doctor.findings import CHECKS, PLACES, RULES, Severity
from stepflow_broker.protocol.keys import KEYS
from stepflow_broker.protocol.keys_doc import keys_page
from stepflow_cli.commands.worker import worker
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.main import stepflow as cli
from stepflow_engine.durations import show_duration
from stepflow_engine.state_diagram import state_machine_section
from stepflow_workers.log_events import LOG_EVENTS
from stepflow_workers.state.settings import WorkerSettings
from tests.support.pages import ROOT

__all__ = ["EXAMPLES", "PAGES", "SHARED", "commands", "declared_options", "generated_page", "limits"]

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"


# -- Markdown ----------------------------------------------------------------------


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """A text of a docstring or of help as one cell."""
    joined = " ".join(text.split()).replace("``", "`")
    parts = re.split(r"(`[^`]*`)", joined)
    return "".join(
        part if part.startswith("`") else part.replace("<", "&lt;") for part in (p.replace("|", "\\|") for p in parts)
    )


def _code(text: object) -> str:
    return f"`{_cell(str(text))}`"


def _summary(thing: object) -> str:
    """The first paragraph of a docstring."""
    return _cell((inspect.getdoc(thing) or "").partition("\n\n")[0])


def _section(thing: object, name: str) -> dict[str, str]:
    """The entries of a section of a docstring, ``Args`` or ``Attributes``: name → text."""
    lines = (inspect.getdoc(thing) or "").splitlines()
    if f"{name}:" not in lines:
        return {}
    found: dict[str, str] = {}
    last = ""
    for line in lines[lines.index(f"{name}:") + 1 :]:
        if line and not line.startswith("    "):
            break
        entry = re.match(r"    ([\w, ]+): (.*)", line)
        if entry:
            last = entry[1]
            found[last] = entry[2]
        elif last:
            found[last] += f" {line.strip()}"
    return {name: text.strip() for names, text in found.items() for name in names.split(", ")}


# -- Python ------------------------------------------------------------------------


def _public(*, errors: bool) -> list[tuple[str, Any]]:
    found = [(name, getattr(stepflow, name)) for name in sorted(stepflow.__all__, key=str.lower)]
    return [(name, thing) for name, thing in found if _is_error(thing) is errors]


def _is_error(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, stepflow.StepflowError)


def _errors() -> str:
    rows = []
    for name, error in _public(errors=True):
        bases = ", ".join(_code(base.__name__) for base in error.__bases__)
        attributes = ", ".join(_code(attribute) for attribute in _section(error, "Attributes")) or "—"
        rows.append((_code(name), bases, _summary(error), attributes))
    return _table(("error", "base", "meaning", "attributes"), rows)


def _exit_codes() -> str:
    text = re.sub(r"\n       +", " ", EPILOG)
    return _table(
        ("code", "meaning"),
        [(code, _cell(meaning)) for code, meaning in re.findall(r"^  (\d+) +(.+)$", text, re.MULTILINE)],
    )


def _names() -> str:
    return _table(("name", "meaning"), [(_code(name), _summary(thing)) for name, thing in _public(errors=False)])


def _testing() -> str:
    names = [(name, getattr(testing, name)) for name in sorted(testing.__all__, key=str.lower)]
    return _table(
        ("name", "meaning"),
        [(_code(name), _summary(one)) for name, one in names if inspect.isclass(one) or inspect.isfunction(one)],
    )


def _testing_members() -> str:
    names = [name for name, one in vars(testing.SyncHarness).items() if inspect.isfunction(one) and name[0] != "_"]
    rows = [(_code(f"h.{name}"), _summary(getattr(testing.SyncHarness, name))) for name in names]
    return _table(("method", "meaning"), rows)


_HANDLES = ("Stepflow", "Run", "Context", "SyncContext", "StepTools", "SyncStepTools")
_OPTIONS = ("StartOptions", "RunOptions", "StepOptions", "MapOptions")
_VALUES = (
    "RunIterator",
    "RunInfo",
    "StepInfo",
    "AttemptInfo",
    "AuditEntry",
    "ErrorGroup",
    "Reason",
    "Pause",
    "Event",
    "Failure",
    *_OPTIONS,
)
_CLASSES = (*_HANDLES, *_VALUES)


def _members() -> str:
    return "\n".join(_members_of(getattr(stepflow, name)) for name in _CLASSES)


def _members_of(cls: type) -> str:
    rows = []
    attributes = {name: text for base in reversed(cls.__mro__) for name, text in _section(base, "Attributes").items()}
    for name, text in attributes.items():
        rows.append((_code(name), _cell(text)))
    for name, member in inspect.getmembers(cls):
        if name.startswith("_") or name in attributes or not inspect.getdoc(member):
            continue
        if isinstance(member, property | cached_property):
            rows.append((_code(name), _summary(member)))
        elif callable(member) and cls.__name__ in _HANDLES:
            rows.append((_code(f"{name}({_parameters(member)})"), _summary(member)))
    return f"### {cls.__name__}\n\n{_table(('member', 'meaning'), sorted(rows, key=lambda row: row[0].lower()))}"


def _parameters(function: Callable[..., Any]) -> str:
    """The names of the parameters, without types."""
    found, keyword = list[str](), False
    for one in list(inspect.signature(function).parameters.values())[1:]:
        if one.kind is one.VAR_POSITIONAL:
            keyword = True
            found.append(f"*{one.name}")
            continue
        if one.kind is one.KEYWORD_ONLY and not keyword:
            keyword = True
            found.append("*")
        options = declared_options(function) if one.kind is one.VAR_KEYWORD else None
        star, kind = "**" if one.kind is one.VAR_KEYWORD else "", f": {options.__name__}" if options else ""
        found.append(f"{star}{one.name}{kind}{'' if one.default is one.empty else f'={one.default!r}'}")
    return ", ".join(found)


def declared_options(function: Callable[..., Any]) -> Any:
    """The ``TypedDict`` of the options that a function takes as ``**options``; ``None``: it declares none."""
    for one in inspect.signature(function).parameters.values():
        declared = re.fullmatch(r"Unpack\[(\w+)\]", str(one.annotation))
        if declared:
            return getattr(stepflow, declared[1])
    return None


def _arguments(function: Callable[..., Any], doc: object) -> str:
    texts = _section(doc, "Args")
    rows = []
    for name, one in inspect.signature(function).parameters.items():
        if name in texts:
            default = "required" if one.default is one.empty else _code(repr(one.default))
            rows.append((_code(name), default, _cell(texts[name])))
    return _table(("argument", "default", "meaning"), rows)


# -- the command line --------------------------------------------------------------

EXAMPLES = {
    "stepflow dev": "stepflow dev shop:app --watch src",
    "stepflow worker": "stepflow worker shop:app --processes 4",
    "stepflow-worker": "stepflow-worker shop:app billing:app --processes 4 --concurrency 50 --queue shop --log-level WARNING",
    "stepflow send": "stepflow send shop/order.placed --data '{\"order\": 17}' --id order-17",
    "stepflow start": "stepflow start shop/import --data @input.json --wait --timeout 5m",
    "stepflow invoke": "stepflow invoke shop/square -d '{\"number\": 4}'",
    "stepflow runs list": "stepflow runs list --status failed --function shop/import --tag tenant=17 --since 2d --limit 50",
    "stepflow runs show": "stepflow runs show 4f1c0d8e7a2b4c5d9e8f7a6b5c4d3e2f --depth 1",
    "stepflow runs unpin": 'stepflow runs unpin --function shop/order --version 1.4 --reason "1.4 was removed"',
    "stepflow debug": (
        "stepflow debug 4f1c0d8e7a2b4c5d9e8f7a6b5c4d3e2f --app shop:app --break charge\n"
        "stepflow debug --history tests/histories/order-4f1c0d8e.json --app shop:app"
    ),
    "stepflow export": (
        "stepflow export 4f1c0d8e7a2b4c5d9e8f7a6b5c4d3e2f --to tests/histories --redact event.data.card\n"
        "stepflow export --function shop/order --per-shape 2 --to tests/histories"
    ),
    "stepflow runs accept": 'stepflow runs accept 4f1c0d8e7a2b4c5d9e8f7a6b5c4d3e2f --reason "score may run now"',
    "stepflow runs signal": "stepflow runs signal 4f1c0d8e7a2b4c5d9e8f7a6b5c4d3e2f address --data '\"Via Roma 1\"' --id form-17",
    "stepflow runs retry": (
        "stepflow runs retry 4f1c0d8e7a2b4c5d9e8f7a6b5c4d3e2f --reason 'the bank is open'\n"
        "stepflow runs retry --function shop/order --error TimeoutError --since 2d --rate 20 --dry-run"
    ),
    "stepflow runs rerun": "stepflow runs rerun 4f1c0d8e7a2b4c5d9e8f7a6b5c4d3e2f --data '{\"order\": 18}'",
    "stepflow runs fork": (
        "stepflow runs fork 4f1c0d8e7a2b4c5d9e8f7a6b5c4d3e2f --before charge --result 'price={\"total\": 12}'"
    ),
    "stepflow runs diff": "stepflow runs diff 4f1c0d8e7a2b4c5d9e8f7a6b5c4d3e2f 8a2b4c5d9e8f7a6b5c4d3e2f4f1c0d8e",
    "stepflow runs cancel": (
        "stepflow runs cancel 4f1c0d8e7a2b4c5d9e8f7a6b5c4d3e2f --reason 'wrong input'\n"
        "stepflow runs cancel --function shop/import --created-before 2h --if 'event.data.total > 100' --dry-run"
    ),
    "stepflow explain": "stepflow explain 4f1c0d8e7a2b4c5d9e8f7a6b5c4d3e2f",
    "stepflow asks": "stepflow asks --to ops --output json",
    "stepflow answer": "stepflow answer 4f1c0d8e7a2b4c5d9e8f7a6b5c4d3e2f approve --data '{\"approved\": true}' --by ada",
    "stepflow doctor": "stepflow doctor\nstepflow doctor --repair --output json",
    "stepflow pause": (
        "stepflow pause function shop/import --reason 'stock is counted'\n"
        "stepflow pause key 'shop/sync:event.data.shop=17'"
    ),
    "stepflow resume": "stepflow resume function shop/import",
    "stepflow check": "stepflow check shop:app billing:app --from redis://127.0.0.1:6379/0",
    "stepflow bulk list": "stepflow bulk list",
    "stepflow bulk show": "stepflow bulk show 68db07905edd4283 --follow",
    "stepflow bulk stop": "stepflow bulk stop 68db07905edd4283 --reason 'the bank has closed again'",
    "stepflow errors": "stepflow errors --function shop/import --since 2d",
    "stepflow events aside": "stepflow events aside",
    "stepflow events cancel": "stepflow events cancel trial-4 --reason 'the user has paid'",
    "stepflow events delayed": "stepflow events delayed",
    "stepflow schedules list": "stepflow schedules list",
    "stepflow schedules show": "stepflow schedules show shop/report-4",
    "stepflow schedules create": "stepflow schedules create shop/report-4 shop/report --cron '0 6 * * *' --timezone Europe/Rome",
    "stepflow schedules pause": "stepflow schedules pause shop/report-4 --reason 'the tenant is on holiday'",
    "stepflow schedules resume": "stepflow schedules resume shop/report-4",
    "stepflow schedules trigger": "stepflow schedules trigger shop/report-4",
    "stepflow schedules delete": "stepflow schedules delete shop/report-4",
    "stepflow schedules backfill": "stepflow schedules backfill shop/report-4 --since 2d --dry-run",
    "stepflow events resend": "stepflow events resend 1764401234567-0",
    "stepflow audit": "stepflow audit --action cancel --limit 10",
    "stepflow pauses": "stepflow pauses --output json",
    "stepflow flow-limits list": "stepflow flow-limits list",
    "stepflow flow-limits set": "stepflow flow-limits set shop/sync --concurrency 5 --for 2h --reason 'the API is slow'",
    "stepflow flow-limits reset": "stepflow flow-limits reset shop/sync",
    "stepflow functions": "stepflow functions",
    "stepflow functions forget": "stepflow functions forget shop/import",
    "stepflow workers": "stepflow workers",
    "stepflow queues": "stepflow queues --output json",
}
"""An example of each command."""
SHARED = ("output", "redis_url", "debug")
"""Options that are described once."""


def commands() -> Iterator[tuple[str, str, click.Command]]:
    """Every command: its name, the prefix of its environment variables, and the command."""
    yield "stepflow-worker", "STEPFLOW_WORKER", worker
    yield from _below(cli, "stepflow", "STEPFLOW")


def _below(group: click.Group, name: str, prefix: str) -> Iterator[tuple[str, str, click.Command]]:
    for word, command in group.commands.items():
        inner = (f"{name} {word}", f"{prefix}_{word.upper().replace('-', '_')}")
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield *inner, command
        if isinstance(command, click.Group):
            yield from _below(command, *inner)


def _commands() -> str:
    return "\n".join(_command(*one) for one in commands())


def _command(name: str, prefix: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    text = "\n\n".join(_cell(part) for part in inspect.cleandoc(command.help or "").split("\n\n"))
    if name == "stepflow worker":
        return f"### {name}\n\nThe same as [stepflow-worker](#stepflow-worker).\n\n```sh\n{EXAMPLES[name]}\n```\n"
    options = [one for one in command.params if isinstance(one, click.Option)]
    rows = [_option(one, prefix) for one in options if one.name not in SHARED and one.name != "help"]
    shared = [f"`{max(one.opts, key=len)}`" for one in options if one.name in SHARED]
    parts = [f"### {name}", f"```text\n{usage}\n```", text, f"```sh\n{EXAMPLES[name]}\n```"]
    if rows:
        parts.append(_table(("option", "default", "meaning"), rows).rstrip())
    if shared:
        parts.append(f"Also {', '.join(shared)}: see [options of several commands](#options-of-several-commands).")
    return "\n\n".join(parts) + "\n"


def _option(option: click.Option, prefix: str) -> tuple[str, str, str]:
    names = ", ".join(_code(name) for name in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag else f" {_value(option)}"
    default = "off" if option.is_flag else _default(option.default)
    return f"{names}{value}", default, _cell(option.help or "")


def _value(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return _cell(" | ".join(str(choice) for choice in option.type.choices))
    return _cell(
        option.metavar or {"integer range": "N", "directory": "FOLDER", "text": "TEXT"}.get(option.type.name, "VALUE")
    )


def _default(value: object) -> str:
    return "—" if value in (None, "", ()) or type(value).__name__ == "Sentinel" else _code(value)


def _shared_options() -> str:
    show = {name: command for name, _, command in commands()}["stepflow runs show"]
    rows = []
    for option in show.params:
        if isinstance(option, click.Option) and option.name in SHARED:
            named, default, text = _option(option, "")
            rows.append((named, _code(option.envvar), default, text))
    return _table(("option", "variable", "default", "meaning"), rows)


def _variables() -> str:
    rows = []
    for name, prefix, command in commands():
        if name == "stepflow-worker":
            continue  # its variables are those of `stepflow worker`
        for option in command.params:
            if isinstance(option, click.Option) and option.name not in SHARED and option.name != "help":
                longest = max(option.opts, key=len)
                variable = option.envvar or f"{prefix}_{str(option.name).upper()}"
                default = "off" if option.is_flag else _default(option.default)
                rows.append((_code(variable), f"`{name} {longest}`", default))
    return _table(("variable", "option", "default"), rows)


def _worker_settings() -> str:
    options = {one.name for one in worker.params} | {"lease_ms", "grace_s", "redis_url"}
    texts = _section(WorkerSettings, "Attributes")
    fields = WorkerSettings.__dataclass_fields__
    rows = [
        (_code(name), _code(getattr(WorkerSettings("redis://"), name)), _cell(texts[name]))
        for name in fields
        if name not in options
    ]
    return _table(("setting", "value", "meaning"), rows)


# -- limits ------------------------------------------------------------------------

_MIB = 1024 * 1024


def _bytes(value: int) -> str:
    if value % _MIB == 0:
        return f"{value // _MIB} MiB"
    return f"{value // 1024} KiB" if value % 1024 == 0 else f"{value:,} bytes"


def _count(value: int) -> str:
    return f"{value:,}"


# fmt: off
_LIMITS: tuple[tuple[str, str, str, Callable[[int], str], str], ...] = (
    ("steps of a run", "engine/stepflow_engine/limits.py", "steps_per_run", _count, "`LimitError`: the run fails"),
    ("result of a step, output of a run", "engine/stepflow_engine/limits.py", "step_output_bytes", _bytes, "`StepOutputError`"),
    ("all memos of a run", "engine/stepflow_engine/limits.py", "run_state_bytes", _bytes, "`LimitError`: the step fails"),
    ("data of an event", "engine/stepflow_engine/limits.py", "event_bytes", _bytes, "`EventError`"),
    ("events of one send", "engine/stepflow_engine/limits.py", "events_per_send", _count, "`EventError`"),
    ("arguments of an isolated handler, as a pickle", "workers/stepflow_workers/handler_process/frames.py", "MAX_CALL_BYTES", _bytes, "`StepUsageError`"),
    ("detail of a heartbeat", "engine/stepflow_engine/handler_control.py", "MAX_HEARTBEAT_BYTES", _bytes, "`StepUsageError`"),
    ("retries, as a number", "engine/stepflow_engine/limits.py", "MAX_RETRIES", _count, "`ConfigurationError`; `ValueError` in `with_options`"),
    ("attempts of a `Retry`", "engine/stepflow_engine/limits.py", "MAX_ATTEMPTS", _count, "`ConfigurationError`"),
    ("length of an id or a name", "engine/stepflow_engine/limits.py", "MAX_ID_BYTES", _bytes, "`ConfigurationError`, `StepUsageError` or `EventError`, by place"),
    ("depth of invokes", "engine/stepflow_engine/limits.py", "MAX_DEPTH", _count, "`InvokeError`"),
    ("a sleep, a wait, an invoke, any duration", "engine/stepflow_engine/durations.py", "MAX_DURATION_MS", show_duration, "`StepUsageError` in a step, `ConfigurationError` in an option"),
    ("length of an expression", "engine/stepflow_engine/expression.py", "_MAX_BYTES", _bytes, "`ConfigurationError`; `StepUsageError` in a step"),
    ("work of an expression on one event", "engine/stepflow_engine/expression.py", "_MAX_COST", _bytes, "`EventError` for a key in `start`; a skipped run for a key of an event; a condition does not hold"),
    ("nesting of JSON, levels", "engine/stepflow_engine/codec.py", "_MAX_LEVELS", _count, "`EventError`, `StepOutputError`"),
    ("stored causes of a failure", "engine/stepflow_engine/failure.py", "_MAX_CAUSES", _count, "further causes are dropped"),
    ("stored text of a failure, characters", "engine/stepflow_engine/failure.py", "_MAX_TEXT", _count, "the middle of the text is cut"),
    ("lookback of a wait", "sdk/stepflow/functions/requests.py", "MAX_LOOKBACK_MS", show_duration, "`StepUsageError`"),
    ("signals of a run that no wait has received", "broker/stepflow_broker/lua/lib/signals.lua", "MAX_SIGNALS", _count, "`SignalError`"),
    ("size of these signals", "broker/stepflow_broker/lua/lib/signals.lua", "MAX_SIGNAL_BYTES", _bytes, "`SignalError`"),
    ("JSON schema of an ask", "sdk/stepflow/functions/ask_schema.py", "MAX_SCHEMA_BYTES", _bytes, "`StepUsageError`"),
    ("open asks that are compared with a filter, of a partition", "broker/stepflow_broker/views/asks.py", "MAX_COMPARED", _count, "later ones are not listed"),
    ("values of a run", "sdk/stepflow/functions/values.py", "MAX_VALUES", _count, "`LimitError`"),
    ("size of the values of a run", "sdk/stepflow/functions/values.py", "MAX_VALUES_BYTES", _bytes, "`LimitError`"),
    ("events of a name that a wait with `if_` searches", "broker/stepflow_broker/lua/lib/event_history.lua", "MAX_HISTORY", _count, "older events are not seen"),
    ("events of a name that a wait with `match` finds", "broker/stepflow_broker/lua/lib/event_history.lua", "MAX_INDEXED", _count, "older events are not seen; fewer of events larger than 1.6 kB"),
    ("triggers of a function", "sdk/stepflow/options/triggers.py", "_MAX_TRIGGERS", _count, "`ConfigurationError`"),
    ("events that cancel a run", "sdk/stepflow/options/cancellation.py", "_MAX_EVENTS", _count, "`ConfigurationError`"),
    ("concurrency limits of a function", "sdk/stepflow/options/flow_control.py", "_MAX_LIMITS", _count, "`ConfigurationError`"),
    ("a limit of flow control, the slots of a step, the runs of a list", "engine/stepflow_engine/counts.py", "MAX_COUNT", _count, "`ConfigurationError`; `ValueError` in `with_options`; `FilterError`"),
    ("runs of a batch", "sdk/stepflow/options/flow_control.py", "_MAX_BATCHED", _count, "`ConfigurationError`"),
    ("events of a batch, together", "broker/stepflow_broker/lua/lib/start_rules.lua", "MAX_BATCH_BYTES", _bytes, "the batch starts; the next event begins another"),
    ("missed times of a schedule that start runs", "sdk/stepflow/options/cron_times.py", "_MAX_TIMES", _count, "earlier times are skipped"),
    ("wait for a replica", "sdk/stepflow/app.py", "_LONGEST_REPLICA_TIMEOUT_MS", show_duration, "`ConfigurationError`"),
    ("idempotency of an event id or a run id", "broker/stepflow_broker/registry/function_config.py", "DEDUPE_MS", show_duration, "a repeat after this time and the retention starts a run"),
    ("partitions", "broker/stepflow_broker/redis_client/url.py", "MOST_PARTITIONS", _count, "`ConfigurationError`"),
    ("deaths of workers with one step", "workers/stepflow_workers/state/poison.py", "POISON_DEATHS", _count, "the step fails with `PoisonError`"),
    ("attempts of a step that are kept", "broker/stepflow_broker/lua/lib/attempts.lua", "of_step", _count, "the oldest are forgotten"),
    ("attempts of a run that are kept", "broker/stepflow_broker/lua/lib/attempts.lua", "of_run", _count, "the oldest tenth is forgotten"),
    ("size of the attempts of a run that are kept", "broker/stepflow_broker/lua/lib/attempts.lua", "bytes", _bytes, "the oldest tenth is forgotten"),
    ("unfinished steps of a run that are kept", "broker/stepflow_broker/lua/lib/attempts.lua", "unfinished", _count, "the others are not kept"),
    ("jobs of one claim", "workers/stepflow_workers/partition/dispatcher.py", "_MAX_CLAIMED", _count, "the worker claims again"),
    ("leases of a worker whose event loop does not run, seconds", "workers/stepflow_workers/liveness/lease_table.py", "BLOCKED_LIMIT_S", _count, "they are no longer extended: other workers take the jobs"),
    ("leases that the sidecar can extend", "workers/stepflow_workers/liveness/lease_table.py", "_ENTRIES", _count, "the thread of the worker extends the rest"),
)
# fmt: on


def limits() -> dict[tuple[str, str], int]:
    """The values of all limits, as the code has them: (file, constant) → value."""
    return {(path, name): _constant(ROOT / path, name) for _, path, name, _, _ in _LIMITS}


def _constant(path: Path, name: str) -> int:
    """The value of a number that a file defines."""
    text = path.read_text()
    found = re.search(rf"^(?:local | +)?{name}(?:: int)? = ([\d_* ]+)", text, re.MULTILINE)
    assert found, f"{path.name} has no number {name}"
    value = 1
    for factor in found[1].split("*"):
        value *= int(ast.literal_eval(factor.strip()))
    return value


# fmt: off
_TIMES: tuple[tuple[str, str, str, float], ...] = (
    ("connecting to the server", "broker/stepflow_broker/redis_client/connection.py", "CONNECT_TIMEOUT_S", 1),
    ("reply of the server", "broker/stepflow_broker/redis_client/connection.py", "SOCKET_TIMEOUT_S", 1),
    ("retries of a producer and of commands, while the server is unavailable", "broker/stepflow_broker/redis_client/broker.py", "retry_for_s", 1),
    ("retries of a worker, per command, while the server is unavailable", "workers/stepflow_workers/worker.py", "_RETRY_FOR_S", 1),
    ("holding a run without a memo", "workers/stepflow_workers/state/run_cache.py", "IDLE_HOLD_S", 1),
    ("delay after the first failed attempt", "engine/stepflow_engine/retry_policy.py", "first_ms", 1000),
    ("longest delay after a failed attempt", "engine/stepflow_engine/retry_policy.py", "max_ms", 1000),
    ("reservation of a concurrency slot on a queue", "broker/stepflow_broker/lua/lib/concurrency.lua", "RESERVED_MS", 1000),
)
# fmt: on


def _times() -> str:
    rows = []
    for what, path, name, divisor in _TIMES:
        found = re.search(rf"\b{name}(?:: \w+)? = ([\d_.]+)", (ROOT / path).read_text())
        assert found, f"{path} has no time {name}"
        value = show_duration(round(float(found[1]) / divisor * 1000))
        rows.append((what, value, f"{_code(name)} in {_code(path)}"))
    return _table(("time", "value", "constant"), rows)


def _limit_rows(*, settable: bool) -> str:
    values = limits()
    rows = []
    for what, path, name, show, over in _LIMITS:
        if name.islower() is settable:
            home = _code(f"Limits.{name}") if settable else f"{_code(name)} in {_code(path)}"
            rows.append((what, show(values[path, name]), home, over))
    return _table(("limit", "default" if settable else "value", "setting" if settable else "constant", "over it"), rows)


# -- findings and log events -------------------------------------------------------


def _checks() -> str:
    rows = [
        (_code(code) + " (cluster)" * check.in_cluster, check.error or "—", check.warning or "—")
        for code, check in CHECKS.items()
    ]
    return _table(("code", "error if", "warning if"), rows)


def _findings() -> str:
    rows = []
    for code, rule in RULES.items():
        severity = f"{rule.severity} or warning" if rule.warnings else str(rule.severity)
        rows.append((_code(code), severity, _sentence(rule.text), _cell(rule.repair) or "—"))
    return _table(("code", "severity", "finding", "`--repair`"), rows)


def _places() -> str:
    """The places of findings, each with the codes that occur there."""
    keys = {key.name.lower(): _code(key.text + key.ids) for key in KEYS}
    rows = []
    for where, place in PLACES.items():
        codes = [
            _code(code) + " (warning)" * (rule.severity_at(where) is Severity.WARNING)
            for code, rule in RULES.items()
            if where in rule.places
        ]
        key = keys.get(where) or f"field of {keys['run']}"
        rows.append((_code(where), key, _sentence(place.entry), place.loss or "—", ", ".join(codes)))
    return _table(("where", "Redis key", "entry", "while it is missing", "codes"), rows)


def _sentence(text: str) -> str:
    return _cell(re.sub(r"\{[^}]*\}", "…", text))


def _log_events() -> str:
    rows = []
    for event in LOG_EVENTS.values():
        fields = ", ".join(_code(field) for field in event.fields) or "—"
        rows.append(
            (_code(event.name), ", ".join(event.levels), fields, _cell(event.meaning), _cell(event.action) or "—")
        )
    return _table(("event", "level", "fields", "meaning", "what to do"), rows)


def _statuses() -> str:
    """Public enumerations and their values."""
    found = [(name, thing) for name, thing in _public(errors=False) if isinstance(thing, enum.EnumMeta)]
    rows = [(_code(f"{name}.{one.name}"), _code(one.value)) for name, thing in found for one in thing]
    return _table(("member", "value"), rows)


# -- pages -------------------------------------------------------------------------

PARTS: dict[str, Callable[[], str]] = {
    "errors": _errors,
    "exit codes": _exit_codes,
    "names": _names,
    "testing": _testing,
    "testing members": _testing_members,
    "members": _members,
    "statuses": _statuses,
    "commands": _commands,
    "shared options": _shared_options,
    "variables": _variables,
    "app": lambda: _arguments(stepflow.Stepflow.__init__, stepflow.Stepflow),
    "function": lambda: _arguments(stepflow.Stepflow.function, stepflow.Stepflow.function),
    "worker settings": _worker_settings,
    "settable limits": lambda: _limit_rows(settable=True),
    "times": _times,
    "fixed limits": lambda: _limit_rows(settable=False),
    "checks of the server": _checks,
    "findings": _findings,
    "places of findings": _places,
    "log events": _log_events,
    "state machine": state_machine_section,
}
_PART = re.compile(r"(<!-- generated: (?P<name>[\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
PAGES = (*sorted(REFERENCE.glob("*.md")), DOCS / "concepts" / "state-machine.md")


def generated_page(page: Path) -> str:
    """The page with its generated parts as the code has them."""
    if page.name == "redis-keys.md":
        return keys_page()
    return _PART.sub(lambda found: f"{found[1]}{PARTS[found['name']]()}{found[3]}", page.read_text())


if __name__ == "__main__":
    for _page in PAGES:
        _page.write_text(generated_page(_page))
