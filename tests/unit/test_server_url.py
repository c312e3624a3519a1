"""URLs of servers: what is wrong with them is said without their passwords."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from redis.exceptions import AuthenticationError

from stepflow_broker.redis_client.connection import connect, connect_async
from stepflow_broker.redis_client.url import FilePassword, read_url, safe_url, user_of
from stepflow_engine.errors import ConfigurationError

SECRET = "xyzzy"
SECRET_URLS = [
    f"redis://u:{SECRET}@h:1/0",
    f"redis://:{SECRET}@h",
    f"redis://u:a@{SECRET}@h/0",
    f"redis://u:a{SECRET}/{SECRET}@h/0",
    f"redis://u:{SECRET}?a={SECRET}@h/0",
    f"redis://u:12?{SECRET}={SECRET}@h/0",
    f"redis://u:{SECRET}#{SECRET}@h/0",
    f"redis://u:{SECRET}\n{SECRET}@h/0",
    f"redis://u://{SECRET}@h/0",
    f"redis://u:{SECRET}@h:99999/0",
    f"redis://u:{SECRET}@[h/0",
    f"redis://u:{SECRET}@h/0?no_such_option=1",
    f"redis://h/0?password={SECRET}",
    f"rediss://h/0?db=x&ssl_password={SECRET}@{SECRET}",
    f"redis:///u:{SECRET}@h",
    f"redis:u:{SECRET}@h",
    f"unix://u:{SECRET}@/tmp/redis.sock",
    f"http://u:{SECRET}@h",
    f"//u:{SECRET}@h/0",
    f"u:p:{SECRET}@h:6379",
    f"redis+cluster://u:{SECRET}@h:1,h2:2",
    f"redis+cluster://u:a@{SECRET}@h",
    f"redis+cluster://u:{SECRET}/{SECRET}@h:1",
    f"redis+cluster://u:{SECRET}@h:1/5",
    f"redis+cluster://u:{SECRET}@h:one,h2",
    f"rediss+cluster://u:{SECRET}@h?partitions=0",
    f"rediss+cluster://h?password={SECRET}&partitions=4",
]


@pytest.mark.parametrize("url", SECRET_URLS)
def test_a_password_is_shown_neither_of_a_right_url_nor_of_a_wrong_one(url: str) -> None:
    assert SECRET not in safe_url(url)
    for make in (connect, connect_async):
        assert SECRET not in outcome(make, url)


def outcome(make: Callable[[str], object], url: str) -> str:
    """What comes of it: a client, or an error with its traceback and what was raised before it."""
    try:
        return repr(make(url))
    except ConfigurationError as error:
        return f"{''.join(traceback.format_exception(error))} {error.__context__!r}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://u@h", "redis://u@h"),
        ("redis://u:p@[::1]:6379/0", "redis://u:***@[::1]:6379/0"),
        ("unix:///tmp/redis.sock?db=1", "unix:///tmp/redis.sock?db=1"),
        ("redis+cluster://u:p@h:1,h2:2?partitions=6", "redis+cluster://u:***@h:1,h2:2?partitions=6"),
        (
            "rediss://u:p@h/0?ssl_ca_certs=ca.pem&ssl_password=p",
            "rediss://u:***@h/0?ssl_ca_certs=ca.pem&ssl_password=***",
        ),
    ],
)
def test_what_is_no_secret_is_shown(url: str, shown: str) -> None:
    assert safe_url(url) == shown


def test_a_socket_of_this_machine_is_a_server_too() -> None:
    for make in (connect, connect_async):
        assert make("unix:///tmp/redis.sock?db=1").connection_pool.connection_kwargs["path"] == "/tmp/redis.sock"


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("redis://u:a/b@h/0", "its port is no number; write % / . # @ in a password as %25 %2F %3F %23 %40"),
        ("redis://u:1/b@h/0", "there is an @ after the address"),
        ("redis://h/0?db=one", "Invalid value for .db."),
        ("redis://h/0?colour=red", "unexpected keyword argument 'colour'"),
        ("rediss://h/0?ssl_cert_reqs=maybe", "Invalid SSL Certificate Requirements Flag: maybe"),
        ("http://h", "must specify one of the following schemes"),
    ],
)
def test_what_is_wrong_with_a_url_is_said(url: str, part: str) -> None:
    for make in (connect, connect_async):
        with pytest.raises(ConfigurationError, match=part):
            make(url)


def test_the_user_is_named_by_the_url() -> None:
    assert user_of("redis://al%20bert:p@h") == "al bert"
    assert user_of("redis://h") == "default"
    assert user_of("redis://u:p@[h") == "default"


def test_a_password_in_a_file_is_read_for_each_connection(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("first\nsecond line\n")
    found = read_url(f"redis://worker@h:6379/0?password_file={path}&db=2")
    assert found.text == "redis://h:6379/0?db=2"
    provider = found.options["credential_provider"]
    assert provider.get_credentials() == ("worker", "first")
    path.write_text("changed")
    assert provider.get_credentials() == ("worker", "changed")
    path.unlink()
    with pytest.raises(AuthenticationError, match="cannot be read"):
        provider.get_credentials()


def test_a_password_in_a_file_needs_no_user(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("only")
    assert FilePassword("", tmp_path / "password").get_credentials() == ("only",)


@pytest.mark.parametrize("option", ["password_file", "ssl_password_file"])
def test_a_file_without_a_password_is_refused(tmp_path: Path, option: str) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigurationError, match=f"{option} .* is empty"):
        read_url(f"rediss://h/0?{option}={tmp_path / 'empty'}")
    with pytest.raises(ConfigurationError, match=f"{option} .* cannot be read: No such file"):
        read_url(f"rediss://h/0?{option}={tmp_path / 'none'}")


def test_a_key_never_has_its_password_asked_for_on_the_terminal(tmp_path: Path) -> None:
    key, secret = tmp_path / "key.pem", tmp_path / "secret"
    key.touch()
    secret.write_text("open sesame")
    assert read_url(f"rediss://h/0?ssl_keyfile={key}").options == {"ssl_password": ""}
    assert read_url(f"rediss://h/0?ssl_keyfile={key}&ssl_password=p").options == {}
    found = read_url(f"rediss://h/0?ssl_keyfile={key}&ssl_password_file={secret}")
    assert found.options == {"ssl_password": "open sesame"}
    assert "sesame" not in repr(found)


@pytest.mark.parametrize("url", ["redis://?db=\ud800", "redis://host/\udcff", "\ud800"])
def test_a_url_of_bytes_that_are_no_text_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="it is not valid Unicode"):
        read_url(url)
