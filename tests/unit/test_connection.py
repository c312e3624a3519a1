"""URLs, what is shown of them, and which errors a new connection may help against."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import exceptions

from stepflow import BackendUnavailableError, ConfigurationError
from stepflow_broker.redis_client.connection import connect, connect_async, safe_url
from stepflow_broker.redis_client.errors import is_transient, is_wrong_node, server_error
from stepflow_broker.redis_client.sentinel import PrimaryUnavailableError, SentinelUrl, UnknownPrimaryError

SENTINELS = "redis+sentinel://user:secret@one:1,two,[::1]:3/mymaster/4?sentinel_password=hidden"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://user:secret@host/0", "redis://user:***@host/0"),
        ("rediss://:secret@host", "rediss://:***@host"),
        ("redis+sentinel://user:se@cr/et@one/m", "redis+sentinel://user:***@one/m"),
        ("redis://host/0?password=secret&db=1", "redis://host/0?password=***&db=1"),
        ("redis+sentinel://user:secret@one:1,two:2/m/0", "redis+sentinel://user:***@one:1,two:2/m/0"),
        (SENTINELS, "redis+sentinel://user:***@one:1,two,[::1]:3/mymaster/4?sentinel_password=***"),
    ],
)
def test_a_url_is_shown_without_its_passwords(url: str, shown: str) -> None:
    assert safe_url(url) == shown


def test_the_codec_of_host_names_is_imported_before_a_signal_can_interrupt_that() -> None:
    code = "import sys, stepflow_broker.redis_client.connection; print('encodings.idna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


def test_a_url_of_sentinels_names_them_the_primary_and_the_options_of_both() -> None:
    found = SentinelUrl.parse(SENTINELS)
    assert found.sentinels == (("one", 1), ("two", 26379), ("::1", 3))
    assert found.primary == "mymaster"
    assert found.server == {"username": "user", "password": "secret", "db": 4}
    assert found.sentinel == {"password": "hidden"}


def test_with_rediss_the_primary_and_the_sentinels_speak_tls() -> None:
    found = SentinelUrl.parse("rediss+sentinel://one/my%20master?ssl_ca_certs=/ca.pem")
    assert found.primary == "my master"
    assert found.server == {"ssl": True, "ssl_ca_certs": "/ca.pem"}
    assert found.sentinel == found.server


def test_options_of_a_url_reach_the_connections() -> None:
    for url in ("redis+sentinel://one/m/3?socket_timeout=2", "redis://one/3?socket_timeout=2"):
        kwargs = connect(url).connection_pool.connection_kwargs
        assert (kwargs["db"], kwargs["socket_timeout"]) == (3, 2.0)


def test_the_password_of_the_primary_may_stand_in_a_file_and_is_not_told_to_the_sentinels(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush\n")
    pool: Any = connect(f"redis+sentinel://user@one/m?password_file={tmp_path / 'secret'}").connection_pool
    assert pool.connection_kwargs["credential_provider"].get_credentials() == ("user", "hush")
    assert "credential_provider" not in pool.connection_kwargs["locator"].options


def test_a_socket_file_is_a_server_too() -> None:
    assert connect("unix:///run/redis.sock?db=2").connection_pool.connection_kwargs["path"] == "/run/redis.sock"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis+sentinel://one:1,two:2", "does not name the primary"),
        ("redis+sentinel://one:1,/m", "one of its sentinels has no host"),
        ("redis+sentinel:///m", "one of its sentinels has no host"),
        ("redis+sentinel://one:x/m", "port"),
        ("redis+sentinel://one/m/x", "its database 'x' is not a number"),
        ("redis+sentinel://one/m?nonsense=1", "nonsense"),
        ("redis://one?nonsense=1", "nonsense"),
        ("http://one", "http"),
    ],
)
def test_a_url_that_cannot_be_a_servers_is_refused_when_it_is_given(url: str, why: str) -> None:
    for make in (connect, connect_async):
        with pytest.raises(ConfigurationError, match=r"redis\+sentinel://host1:26379") as caught:
            make(url.replace("://", "://user:secret@"))
        assert why in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "misled", "transient"),
    [
        (exceptions.ReadOnlyError("You can't write against a read only replica."), True, True),
        (exceptions.ResponseError("Error running script: @user_script: 3: -READONLY You can't write"), True, True),
        (exceptions.MasterDownError("BlockingClient with MASTER is down"), True, True),
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), True, True),
        (exceptions.ConnectionError("refused"), False, True),
        (PrimaryUnavailableError("is down"), False, True),
        (exceptions.ResponseError("UNBLOCKED force unblock from blocking operation"), False, True),
        (UnknownPrimaryError("not known"), False, False),
        (exceptions.ResponseError("WRONGTYPE"), False, False),
    ],
)
def test_what_a_new_connection_and_what_another_try_may_help_against(
    error: Exception, misled: bool, transient: bool
) -> None:
    assert (is_wrong_node(error), is_transient(error)) == (misled, transient)


def test_errors_of_sentinels_say_what_to_do_and_no_password() -> None:
    unknown = server_error(UnknownPrimaryError("the sentinels know of no primary 'm'"), SENTINELS)
    away = server_error(PrimaryUnavailableError("no sentinel answers"), SENTINELS)
    replica = server_error(exceptions.ReadOnlyError("read only"), SENTINELS)
    assert isinstance(unknown, ConfigurationError)
    assert "correct redis_url" in str(unknown)
    assert isinstance(away, BackendUnavailableError)
    assert "fail-over" in str(away)
    assert isinstance(replica, BackendUnavailableError)
    assert "is a replica" in str(replica)
    assert not any(word in f"{unknown}{away}{replica}" for word in ("secret", "hidden"))
