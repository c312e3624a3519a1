"""What people write: expressions, schedules, durations, settings, URLs and command lines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from click.testing import CliRunner
from hypothesis import strategies as st

from stepflow import (
    Batch,
    Concurrency,
    ConfigurationError,
    CronTrigger,
    Debounce,
    Encryption,
    RateLimit,
    Singleton,
    Stepflow,
    Throttle,
)
from stepflow.options.cron_times import due_times
from stepflow_broker.redis_client.connection import connect, safe_url
from stepflow_cli.exit_codes import ExitCode, exit_code
from stepflow_cli.main import stepflow
from stepflow_engine.durations import duration_ms, show_duration
from stepflow_engine.expression import expression
from tests.fuzz.cases import JSON, ODD, SCALARS, TEXTS, fuzzed, pieces

CEL = pieces(
    "event", ".data", ".x", ".all(", ".map(", ".filter(", "x, ", "(", ")", "[", "]", "{", "}", "1", "2", " + ", " - ",
    " / ", " % ", "==", " && ", " || ", "!", "?", ":", "'a'", '"', "'", "r'", "null", "true", "9223372036854775807",
    "1.0", "has(", "size(", "int(", "string(", "timestamp(", "duration(", ".matches(", "'('", " in ", "//", "\n", "b'",
    "event.data.x", "double(", "bytes(", "type(", "-9223372036854775808",
)  # fmt: skip


@fuzzed(0.08, text=CEL | ODD, data=JSON)
def test_an_expression_is_refused_or_gives_a_value_or_nothing(text: Any, data: Any) -> None:
    try:
        found = expression(text)
    except ConfigurationError:
        return
    event = {"name": "a", "id": "e", "ts": 1, "data": {"x": data}}
    found.value(event=event)
    assert found.holds(event=event) in (True, False)


NOW_MS = 1_764_000_000_000


@fuzzed(
    0.02,
    text=pieces("*", "/", "-", ",", " ", "0", "5", "59", "60", "L", "#", "MON", "JAN", "TZ=", "Europe/Rome ", "W", "7")
    | st.lists(
        st.sampled_from(["*", "0", "*/5", "1-5", "L", "30", "2", "MON#1", "1,2", "9999", "²", "٣"]), max_size=6
    ).map(" ".join)
    | ODD,
)
def test_a_schedule_is_refused_or_has_times(text: Any) -> None:
    try:
        cron = CronTrigger(text).to_config()
    except ConfigurationError:
        return
    times = due_times(cron, after_ms=NOW_MS - 600_000, now_ms=NOW_MS)
    assert all(NOW_MS - 600_000 < time_ms <= NOW_MS for time_ms in times)


@fuzzed(0.06, value=TEXTS | SCALARS | ODD | pieces("1", "h", "d", "ms", ".", "5", "w", " ", "-", "e9", "inf", "٣"))
def test_a_duration_is_milliseconds_or_refused(value: Any) -> None:
    try:
        milliseconds = duration_ms(value)
    except ValueError as error:
        refused = str(error)
        assert "duration" in refused
        assert len(refused) < 300
        return
    assert 0 <= milliseconds <= 366 * 86_400_000
    assert show_duration(milliseconds)


@fuzzed(
    0.02,
    kind=st.sampled_from([Batch, Concurrency, Debounce, RateLimit, Throttle, Singleton]),
    first=ODD,
    second=ODD,
    key=ODD | CEL,
)
def test_a_rule_that_cannot_be_is_refused_when_it_is_declared(kind: Any, first: Any, second: Any, key: Any) -> None:
    names = {
        Batch: ("max_size", "timeout"), Concurrency: ("limit", "scope"), Debounce: ("period", "timeout"),
        RateLimit: ("limit", "period"), Throttle: ("limit", "period"), Singleton: ("mode", "key"),
    }[kind]  # fmt: skip
    field = {Batch: "batch", RateLimit: "rate_limit"}.get(kind, kind.__name__.lower())
    app = Stepflow("shop")
    try:
        rule = kind(**{names[0]: first, names[1]: second, "key": key})
        app.function("f", event="e", **{field: rule})(lambda ctx: None)
    except ConfigurationError:
        return


@fuzzed(0.02, app_id=TEXTS | ODD, function=TEXTS | ODD, event=TEXTS | ODD, retries=SCALARS, queue=TEXTS)
def test_a_function_that_cannot_be_is_refused_when_it_is_declared(
    app_id: Any, function: Any, event: Any, retries: Any, queue: str
) -> None:
    try:
        app = Stepflow(app_id)
        app.function(function, event=event, retries=retries, queue=queue)(lambda ctx: None)
    except ConfigurationError:
        return


PARTS = (
    "redis://", "rediss://", "unix://", "http://", "user", ":", "secret", "@", "[", "]", "::1", "127.0.0.1", "/", "0",
    "?db=", "&", "%", "99999", "#",
)  # fmt: skip


@fuzzed(0.02, text=pieces(*PARTS))
def test_a_url_is_taken_or_refused(text: str) -> None:
    safe_url(text)
    try:
        connect(text).close()
    except ConfigurationError:
        return


@fuzzed(0.01, keys=st.lists(ODD | st.binary(min_size=32, max_size=32), max_size=3) | ODD)
def test_keys_that_are_none_are_refused(keys: Any) -> None:
    try:
        found = Encryption(keys=keys)
    except ConfigurationError:
        return
    assert all(len(one) == 12 for one in found.key_ids)


DEAD = "redis://127.0.0.1:1/0"
WORDS = st.sampled_from(
    ["send", "start", "invoke", "runs", "list", "show", "cancel", "explain", "pause", "resume", "pauses", "functions",
     "workers", "queues", "function", "queue", "key", "--data", "--id", "--timeout", "--limit", "--status", "failed",
     "--if", "--all", "--yes", "--created-before", "--reason", "-o", "json", "--app", "--wait", "-d", "--depth",
     "--function", "--redis-url", "redis://:1", "@/nowhere", "-h", "--", "1", "1h", "a/b", "{}", "bulk", "stop",
     "retry", "--rate", "--priority", "--queue", "--retention", "--run-timeout"],
)  # fmt: skip


@fuzzed(0.01, words=st.lists(WORDS | TEXTS, max_size=6))
def test_a_command_line_ends_with_a_known_code(words: list[str]) -> None:
    done = CliRunner().invoke(stepflow, words, env={"STEPFLOW_REDIS_URL": DEAD}, standalone_mode=False)
    error = done.exception
    if isinstance(error, Exception):
        assert exit_code(error) is not ExitCode.INTERNAL, (words, repr(error))


def test_the_times_of_the_fuzzed_schedules_are_of_our_days() -> None:
    assert datetime.fromtimestamp(NOW_MS / 1000, UTC).year == 2025
