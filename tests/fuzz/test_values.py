"""Values of all kinds: payloads, failures, events, and what is encrypted."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

from hypothesis import strategies as st

from stepflow import DecryptionError, Event, EventError, Failure, StepOutputError, StepUsageError
from stepflow.event import encode_event
from stepflow.functions.invocable import invoke_request
from stepflow.functions.requests import send_request, wait_request
from stepflow_engine.cipher import NO_ENCRYPTION, Cipher
from stepflow_engine.codec import dumps, dumps_event, dumps_output, loads
from stepflow_engine.encryption_scopes import open_event_text, open_memo, read_event, redacted_memo, seal_failure
from stepflow_engine.errors import CorruptDataError, RetryAfterError
from stepflow_engine.ids import StepKeys, job_id, run_id_for, split_job_id, step_key
from stepflow_engine.limits import check_id
from stepflow_engine.memo import memo_of_data, memo_of_error, read_memo
from stepflow_engine.retry import retry_delay_ms
from stepflow_engine.retry_policy import Backoff
from tests.fuzz.cases import DEEP, JSON, ODD, SCALARS, TEXTS, fuzzed, pieces

CIPHER = Cipher([bytes(32)])
CIPHERS = st.sampled_from([NO_ENCRYPTION, CIPHER])
PLACE = ("step", "run", "key")


def same(first: Any, second: Any) -> bool:
    """Whether two values are the same JSON."""
    match first, second:
        case dict(), dict():
            return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
        case list() | tuple(), list():
            return len(first) == len(second) and all(map(same, first, second))
        case float(), float():
            return first == second or (math.isnan(first) and math.isnan(second))
    return bool(first == second)


@fuzzed(0.12, value=st.one_of(*[JSON] * 9, DEEP), cipher=CIPHERS)
def test_a_payload_comes_back_equal_or_is_refused(value: Any, cipher: Cipher) -> None:
    try:
        text = dumps_output(value, what="step 'x'", limit_bytes=100_000)
    except StepOutputError:
        return
    memo = read_memo(memo_of_data(cipher.seal(text, PLACE), {"id": "x"}))
    back = open_memo(cipher, "run", "key", memo).data
    assert loads(dumps(back)) == loads(text)
    if isinstance(value, dict | list):
        assert same(value, back) or value != loads(text)


@fuzzed(0.06, value=ODD)
def test_what_is_no_json_is_given_a_plain_form_or_refused(value: Any) -> None:
    for encode, refused in (
        (lambda: dumps_output(value, what="x", limit_bytes=10_000), StepOutputError),
        (lambda: dumps_event(value, limit_bytes=10_000), EventError),
    ):
        with suppress(refused):
            loads(encode())


@fuzzed(0.1, name=TEXTS | ODD, event_id=TEXTS, data=JSON, ts=st.integers(0, 2**50) | ODD, cipher=CIPHERS)
def test_an_event_is_sent_as_it_is_or_refused(name: Any, event_id: str, data: Any, ts: Any, cipher: Cipher) -> None:
    try:
        text = encode_event(Event(name, data, "", ts), event_id=event_id, now_ms=1, limit_bytes=100_000, cipher=cipher)
    except EventError:
        return
    read = loads(open_event_text(cipher, text))
    assert (read["name"], read["id"], read["ts"]) == (name, event_id, ts or 1)
    assert b"\n" not in text
    assert b"\0" not in text


@fuzzed(0.05, value=TEXTS | ODD)
def test_an_id_is_taken_whole_or_refused(value: Any) -> None:
    try:
        check_id(value, "an id")
    except ValueError:
        return
    keys = StepKeys()
    assert keys.next(value) == step_key(value) != keys.next(value)
    run_id = run_id_for("run", step_key(value), value)
    assert split_job_id(job_id(run_id, step_key(value))) == (run_id, step_key(value))


class OddError(Exception):
    """An error whose text is anything."""

    def __str__(self) -> str:
        return self.args[0]


@fuzzed(0.05, message=TEXTS | ODD, after=TEXTS | SCALARS | ODD, cipher=CIPHERS)
def test_a_failure_is_always_kept(message: Any, after: Any, cipher: Cipher) -> None:
    try:
        raise OddError(message)
    except OddError as error:
        failure = Failure.of(error)
    text = memo_of_error(seal_failure(cipher, failure, ("step failure", "run", "key")), {"id": "x"})
    assert open_memo(cipher, "run", "key", read_memo(text)).failure == failure
    try:
        wait = RetryAfterError("later", after)
    except ValueError:
        return
    delay = retry_delay_ms(wait, attempt=0, retries=1, backoff=Backoff(1, 2), chance=0.5, policy=None, now_ms=1)
    assert delay is None or delay >= 0


@fuzzed(0.08, text=st.binary(max_size=40) | JSON.map(repr).map(lambda text: text.encode(errors="replace")))
def test_a_memo_or_an_event_that_is_none_is_a_typed_error(text: bytes) -> None:
    for read in (read_memo, read_event):
        with suppress(CorruptDataError):
            read(text)


MEMOS = st.fixed_dictionaries(
    {},
    optional={
        "id": SCALARS,
        "data": JSON | st.fixed_dictionaries({"$enc": JSON}) | st.fixed_dictionaries({"id": TEXTS, "data": JSON}),
        "error": st.none() | st.dictionaries(st.sampled_from(["name", "message", "cause", "$enc"]), JSON, max_size=4),
        "kind": st.sampled_from(["sleep", "send", "wait", "invoke", "run", 5, None]),
        "function": SCALARS,
    },
)


@fuzzed(0.06, value=MEMOS, cipher=CIPHERS)
def test_a_memo_of_a_stranger_opens_or_is_a_typed_error(value: dict[str, Any], cipher: Cipher) -> None:
    try:
        text = dumps(value)
    except TypeError:
        return
    with suppress(DecryptionError, CorruptDataError):
        memo = read_memo(text)
        redacted_memo(cipher, "run", "key", memo)
        open_memo(cipher, "run", "key", memo)


@fuzzed(
    0.04,
    event=TEXTS | ODD,
    timeout=TEXTS | SCALARS,
    match=st.none() | pieces("event.", "data", ".", "data.a", "name", ",") | st.dictionaries(TEXTS, ODD, max_size=2),
    if_=st.none() | ODD,
    data=ODD,
)
def test_a_step_that_cannot_be_is_refused_where_it_is_written(
    event: Any, timeout: Any, match: Any, if_: Any, data: Any
) -> None:
    for ask in (
        lambda: wait_request(event, timeout, match=match, if_=if_, lookback=timeout, of={"data": {"a": 1}}),
        lambda: invoke_request(event, data, timeout=timeout, options={}, app_id="shop", event_bytes=1_000),
        lambda: send_request(event, now_ms=0, most=10, event_bytes=1_000),
    ):
        with suppress(StepUsageError, EventError):
            ask()
