"""What a client does after an error. No sockets."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis import exceptions

from stepflow_broker.redis_client.cluster import NodeUnavailableError, NotInClusterError
from stepflow_broker.redis_client.errors import outage_error, server_error
from stepflow_broker.redis_client.retry import Attempt, Decision, Next, backoff_s, decide
from stepflow_broker.redis_client.sentinel import PrimaryUnavailableError, UnknownPrimaryError
from stepflow_engine.errors import BackendUnavailableError, ConfigurationError

RESEND, FAIL = Decision(Next.RESEND), Decision(Next.FAIL)
RECONNECT = Decision(Next.RESEND, reconnect=True)
NOW = 100.0
IN_TIME = Attempt(give_up_at=103.0)
TOO_LATE = Attempt(give_up_at=100.0)

RESENT = [
    exceptions.ConnectionError("Connection refused"),
    exceptions.TimeoutError("no answer for 15 s"),
    OSError("Network is unreachable"),
    TimeoutError("connect"),
    exceptions.ResponseError("BUSY Redis is busy running a script"),
    exceptions.ResponseError("NOREPLICAS Not enough good replicas to write"),
    exceptions.ResponseError("UNBLOCKED force unblock from blocking operation"),
    exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'"),
    exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"),
    exceptions.TryAgainError("Multiple keys request during rehashing of slot"),
    exceptions.AskError("5 10.0.0.1:6379"),
    PrimaryUnavailableError("no sentinel answers"),
    NodeUnavailableError("no node answers"),
]
RECONNECTED = [
    exceptions.ReadOnlyError("You can't write against a read only replica."),
    exceptions.ResponseError("Error running script: @user_script: 3: -READONLY You can't write"),
    exceptions.MasterDownError("Link with MASTER is down"),
    exceptions.MovedError("5 10.0.0.1:6379"),
    exceptions.ClusterDownError("The cluster is down"),
    exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
]
FAILED = [
    exceptions.AuthenticationError("WRONGPASS"),
    exceptions.NoPermissionError("this user has no permissions to run the 'set' command"),
    exceptions.ResponseError("WRONGTYPE Operation against a key"),
    exceptions.ResponseError("ERR unknown command"),
    UnknownPrimaryError("not known"),
    NotInClusterError("not a node"),
]


def named(error: Exception) -> str:
    return f"{type(error).__name__} {error}"


@pytest.mark.parametrize("error", RESENT, ids=named)
def test_a_temporary_error_resends_the_request_on_the_same_address(error: Exception) -> None:
    assert decide(error, IN_TIME, NOW) == RESEND


@pytest.mark.parametrize("error", RECONNECTED, ids=named)
def test_a_server_that_is_not_the_right_one_is_left_before_the_request_is_resent(error: Exception) -> None:
    assert decide(error, IN_TIME, NOW) == RECONNECT


@pytest.mark.parametrize("error", FAILED, ids=named)
def test_an_error_that_a_retry_does_not_change_fails_the_request_at_once(error: Exception) -> None:
    assert decide(error, IN_TIME, NOW) == FAIL


@pytest.mark.parametrize("error", RESENT + RECONNECTED, ids=named)
def test_after_the_deadline_every_error_fails_the_request(error: Exception) -> None:
    assert decide(error, TOO_LATE, NOW).next is Next.FAIL


@pytest.mark.parametrize("error", RECONNECTED, ids=named)
def test_a_request_that_fails_at_the_wrong_server_still_closes_the_connection(error: Exception) -> None:
    assert decide(error, TOO_LATE, NOW) == Decision(Next.FAIL, reconnect=True)


def test_an_unknown_script_is_resent_with_its_source_once_whatever_the_deadline() -> None:
    error = exceptions.NoScriptError("No matching script. Please use EVAL.")
    assert decide(error, TOO_LATE, NOW) == Decision(Next.RESEND_WITH_SOURCE)
    assert decide(error, Attempt(give_up_at=103.0, has_source=True), NOW) == FAIL


def test_a_pause_that_would_last_beyond_the_deadline_is_not_begun() -> None:
    error = exceptions.ConnectionError("Connection refused")
    assert decide(error, Attempt(give_up_at=103.0, pause_s=2.9), NOW) == RESEND
    assert decide(error, Attempt(give_up_at=103.0, pause_s=3.0), NOW) == FAIL


@pytest.mark.parametrize(("tries", "longest_s"), [(1, 0.05), (2, 0.1), (4, 0.4), (7, 2.0), (1_000, 2.0)])
def test_the_pause_doubles_up_to_two_seconds_and_is_shortened_by_half_at_most(tries: int, longest_s: float) -> None:
    pauses = [backoff_s(tries) for _ in range(200)]
    assert longest_s / 2 <= min(pauses) < max(pauses) <= longest_s


REFUSED = [
    exceptions.AuthenticationError("WRONGPASS"),
    exceptions.AuthenticationWrongNumberOfArgsError("NOAUTH"),
    exceptions.ResponseError("NOAUTH Authentication required."),
    exceptions.NoPermissionError("this user has no permissions to run the 'set' command"),
    exceptions.ResponseError("NOPERM finish_run needs the command pexpire"),
    exceptions.AuthenticationError("invalid username-password pair or user is disabled."),
]


@pytest.mark.parametrize("error", REFUSED, ids=named)
def test_a_refusal_is_an_outage_for_a_client_that_has_worked_with_the_server(error: Exception) -> None:
    assert decide(error, replace(IN_TIME, is_patient=True), NOW) == RESEND
    assert decide(error, replace(TOO_LATE, is_patient=True), NOW) == FAIL
    assert decide(error, IN_TIME, NOW) == FAIL
    assert isinstance(outage_error(error, "redis://there"), BackendUnavailableError)
    assert isinstance(server_error(error, "redis://there"), ConfigurationError)
