"""Encryption: what is sealed opens with the key at its own place, and nowhere else."""

from __future__ import annotations

import base64
import json
import sys

import pytest

from stepflow import ConfigurationError, DecryptionError, Encryption, EncryptionKeyMissingError, Failure, Stepflow
from stepflow_engine.cipher import NO_ENCRYPTION, Cipher, key_id
from stepflow_engine.codec import dumps, loads
from stepflow_engine.encryption_scopes import (
    end_scope,
    event_scope,
    open_event,
    open_event_text,
    open_failure,
    open_memo,
    redacted,
    redacted_event,
    redacted_failure,
    redacted_memo,
    seal_failure,
    step_scope,
)
from stepflow_engine.ids import run_id_for, with_partition_prefix
from stepflow_engine.memo import memo_of_data, memo_of_error, read_memo
from stepflow_engine.run_events import CANCELLED
from stepflow_engine.steps import event_text

OLD, NEW, OTHER = (bytes([n]) * 32 for n in (1, 2, 3))
PLACE = ("step", "run", "key")
SECRET = {"card": "4111 1111"}


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEPFLOW_ENCRYPTION_KEYS", raising=False)


def sealed(value: object = SECRET, *, key: bytes = OLD, place: tuple[str, ...] = PLACE) -> object:
    return loads(Cipher([key]).seal(dumps(value), place))


@pytest.mark.parametrize("value", [None, 0, "x", [1, {"a": None}], SECRET, {"$enc": "x.y"}, {"$enc": [1]}, "ü" * 9_999])
@pytest.mark.parametrize("cipher", [NO_ENCRYPTION, Cipher([OLD])])
def test_what_is_sealed_is_opened_as_it_was(value: object, cipher: Cipher) -> None:
    text = cipher.seal(dumps(value), PLACE)
    assert cipher.open(loads(text), PLACE) == value
    assert json.loads(text) is not None or value is None


def test_what_is_sealed_says_only_the_key_and_its_own_length() -> None:
    text = Cipher([OLD]).seal(dumps(SECRET), PLACE)
    assert text.startswith(b'{"$enc":"%b.' % key_id(OLD).encode())
    assert b"4111 1111" not in text
    assert text != Cipher([OLD]).seal(dumps(SECRET), PLACE)
    assert b"4111 1111" not in base64.b64decode(loads(text)["$enc"].partition(".")[2])


def test_without_a_key_plain_data_is_stored_as_it_is() -> None:
    assert NO_ENCRYPTION.seal(b'{"a":1}', PLACE) == b'{"a":1}'
    assert not NO_ENCRYPTION.encrypts


def test_data_that_looks_sealed_is_data() -> None:
    forged = loads(Cipher([OLD]).seal(b"1", PLACE))
    assert NO_ENCRYPTION.open(loads(NO_ENCRYPTION.seal(dumps(forged), PLACE)), PLACE) == forged
    assert Cipher([OLD]).open(loads(NO_ENCRYPTION.seal(dumps(forged), PLACE)), PLACE) == forged
    assert NO_ENCRYPTION.open({"$enc": "x", "more": 1}, PLACE) == {"$enc": "x", "more": 1}


@pytest.mark.parametrize(
    "place",
    [("step", "run", "key2"), ("step", "run2", "key"), ("step failure", "run", "key"), ("step", "runkey"), ("x",)],
)
def test_a_payload_that_was_moved_does_not_open(place: tuple[str, ...]) -> None:
    with pytest.raises(DecryptionError, match="belongs to another scope, or was altered") as caught:
        Cipher([OLD]).open(sealed(), place)
    assert caught.value.key_id == key_id(OLD)
    assert "4111 1111" not in str(caught.value)


@pytest.mark.parametrize("cut", [-1, 0, 5, 40, 10_000])
def test_a_payload_that_was_altered_does_not_open(cut: int) -> None:
    name, _, coded = sealed()["$enc"].partition(".")  # type: ignore[index]
    raw = bytearray(base64.b64decode(coded))
    raw = raw[:cut] if cut in (0, 5, 40) else raw + b"x" if cut > 99 else bytearray([*raw[:-1], raw[-1] ^ 1])
    with pytest.raises(DecryptionError, match="altered"):
        Cipher([OLD]).open({"$enc": f"{name}.{base64.b64encode(raw).decode()}"}, PLACE)


FORGED = ["", ".", "x", "x.", "x.AAAA", "…", "\ud800", f"{key_id(OLD)}.é", f"{key_id(OLD)}.A", 1, {}, [], [1, 2], None]


@pytest.mark.parametrize("value", FORGED)
def test_what_only_has_the_mark_is_a_typed_error(value: object) -> None:
    for cipher in (NO_ENCRYPTION, Cipher([OLD])):
        with pytest.raises(DecryptionError):
            cipher.open({"$enc": value}, PLACE)


def test_a_missing_key_is_named() -> None:
    for cipher in (NO_ENCRYPTION, Cipher([OTHER])):
        with pytest.raises(
            EncryptionKeyMissingError,
            match=rf"run 'run' \(step 'key'\): this process does not have its key '{key_id(OLD)}'.*STEPFLOW_ENCRYPTION",
        ) as caught:
            cipher.open(sealed(), PLACE)
        assert caught.value.key_id == key_id(OLD)


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    rotating = Cipher([NEW, OLD])
    assert rotating.open(sealed(key=OLD), PLACE) == SECRET
    assert rotating.seal(b"1", PLACE).startswith(b'{"$enc":"%b.' % key_id(NEW).encode())
    assert Cipher([OLD, NEW]).open(loads(rotating.seal(b"1", PLACE)), PLACE) == 1
    assert NO_ENCRYPTION.merged_with(rotating, Cipher([OTHER])).open(sealed(key=OTHER), PLACE) == SECRET


# -- payloads ------------------------------------------------------------------


def test_an_event_opens_only_under_its_own_id() -> None:
    cipher = Cipher([OLD])
    data = cipher.seal(dumps(SECRET), event_scope("e1"))
    text = event_text("a", id="e1", ts=1, data=data)
    assert loads(open_event_text(cipher, text)) == {"name": "a", "id": "e1", "ts": 1, "data": SECRET}
    with pytest.raises(DecryptionError):
        open_event_text(cipher, event_text("a", id="e2", ts=1, data=data))
    plain = event_text("a", id="e1", ts=1, data=b'{"data":{"$enc":"no"},"n":1}')
    assert loads(open_event_text(cipher, plain))["data"]["n"] == 1


def test_of_a_failure_only_the_name_is_read() -> None:
    failure = Failure("CardError", "card 4111", "Traceback: card 4111", Failure("ValueError", "card 4111"))
    text = seal_failure(Cipher([OLD]), failure, PLACE)
    stored = Failure.from_json(loads(text))
    assert (stored.name, stored.message, stored.traceback, stored.cause) == ("CardError", "encrypted", "", None)
    assert b"card 4111" not in text
    assert open_failure(Cipher([OLD]), stored, PLACE) == failure
    with pytest.raises(EncryptionKeyMissingError):
        open_failure(NO_ENCRYPTION, stored, PLACE)
    assert redacted_failure(NO_ENCRYPTION, stored, PLACE) == Failure("CardError", "encrypted")
    assert open_failure(NO_ENCRYPTION, Failure("E", "encrypted")) == Failure("E", "encrypted")


def test_memos_open_by_their_kind() -> None:
    cipher, run, key = Cipher([OLD]), "r", "k"
    child = with_partition_prefix(run, run_id_for(run, key))
    detail = {"id": "x", "kind": "invoke", "function": "a/f", "run_id": "forged"}
    ended = [end_scope(child, "a/f", failed=False, batched=batched) for batched in (False, True)]
    stored = [memo_of_data(cipher.seal(b"5", step_scope(run, key)), {"id": "x"})]
    stored += [memo_of_data(cipher.seal(b"5", place), detail) for place in ended]
    assert [open_memo(cipher, run, key, read_memo(text)).data for text in stored] == [5, 5, 5]
    for text in stored[:2]:
        with pytest.raises(DecryptionError):
            open_memo(cipher, "other", key, read_memo(text))
        assert redacted_memo(NO_ENCRYPTION, run, key, read_memo(text)).data == "encrypted"
    failed = memo_of_error(seal_failure(cipher, Failure("E", "m"), step_scope(run, key, failed=True)), {"id": "x"})
    assert open_memo(cipher, run, key, read_memo(failed)).failure == Failure("E", "m")
    event = event_text("a", id="e1", ts=1, data=cipher.seal(b"[5]", event_scope("e1")))
    waited = read_memo(memo_of_data(event, {"id": "x", "kind": "wait", "outcome": "came"}))
    assert open_memo(cipher, run, key, waited).data["data"] == [5]
    assert redacted_memo(NO_ENCRYPTION, run, key, waited).data == {
        "name": "a",
        "id": "e1",
        "ts": 1,
        "data": "encrypted",
    }
    assert redacted(NO_ENCRYPTION, {"$enc": "x"}) == "encrypted"


# -- settings ------------------------------------------------------------------


def test_keys_are_bytes_or_text_and_are_never_shown() -> None:
    text = Encryption.generate_key()
    one, same = Encryption(keys=[text]), Encryption(keys=[base64.b64decode(text)])
    assert one.key_ids == same.key_ids
    assert repr(one) == f"Encryption({one.key_ids[0]})"
    assert text not in repr(one) + repr(one.cipher) + repr(Stepflow("a", encryption=one).backend.__dict__)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ([], "at least one key"),
        ("text", "at least one key"),
        (["c2VjcmV0"], "Encryption: key 1 must be 32 bytes, got 6"),
        ([Encryption.generate_key(), "secret!"], "Encryption: key 2 must be base64"),
        (["sécret"], "Encryption: key 1 must be base64"),
        ([17], "Encryption: key 1 must be bytes or text, got int"),
        ([b"secret"], "must be 32 bytes, got 6"),
    ],
)
def test_keys_that_are_none_are_refused_and_not_shown(keys: list[object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        Encryption(keys=keys)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_the_environment_has_keys_for_apps_that_name_none(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [base64.b64encode(key).decode() for key in (NEW, OLD)]
    monkeypatch.setenv("STEPFLOW_ENCRYPTION_KEYS", f" {texts[0]}, {texts[1]} ,")
    cipher = Stepflow("a").backend.cipher
    assert cipher.seal(b"1", PLACE).startswith(b'{"$enc":"%b.' % key_id(NEW).encode())
    assert cipher.open(sealed(key=OLD), PLACE) == SECRET
    own = Stepflow("a", encryption=Encryption(keys=[OTHER])).backend.cipher
    assert own.seal(b"1", PLACE).startswith(b'{"$enc":"%b.' % key_id(OTHER).encode())
    assert own.open(sealed(key=OLD), PLACE) == SECRET
    monkeypatch.setenv("STEPFLOW_ENCRYPTION_KEYS", "x")
    with pytest.raises(ConfigurationError, match="STEPFLOW_ENCRYPTION_KEYS: key 1"):
        Stepflow("a")


def test_without_the_package_the_setting_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'stepflow\[encryption\]'"):
        Encryption(keys=[OLD])
    assert Stepflow("a").backend.cipher.seal(b"1", PLACE) == b"1"


# -- the event of a cancelled run --------------------------------------------------


def reporting(reported: object) -> dict[str, object]:
    return {"name": CANCELLED, "id": "c1", "ts": 1, "data": {"run_id": "r1", "event": reported}}


def test_the_event_of_a_cancelled_run_is_opened_within_the_event_that_reports_it() -> None:
    inner = {"name": "e", "id": "e1", "ts": 1, "data": sealed(place=event_scope("e1"))}
    opened = open_event(Cipher([OLD]), reporting(inner))
    assert opened["data"] == {"run_id": "r1", "event": {**inner, "data": SECRET}}
    assert redacted_event(Cipher([OTHER]), reporting(inner))["data"]["event"]["data"] == "encrypted"
    with pytest.raises(EncryptionKeyMissingError):
        open_event(Cipher([OTHER]), reporting(inner))
    moved = {**inner, "id": "e2"}
    with pytest.raises(DecryptionError):
        open_event(Cipher([OLD]), reporting(moved))


@pytest.mark.parametrize("reported", [None, 1, [], {}, {"data": {"$enc": "x.y"}}, {"id": 1, "data": {"$enc": "x.y"}}])
def test_an_event_with_that_name_may_have_any_form(reported: object) -> None:
    event = reporting(reported)
    assert open_event(Cipher([OLD]), event) == redacted_event(Cipher([OLD]), event) == event
    whole = {**event, "data": sealed(place=event_scope("c1"))}
    assert open_event(Cipher([OLD]), whole)["data"] == SECRET, "a program of the app has sent it"
