"""What a connection subscribes to for its waiters, and which waiters a reply wakes."""

from __future__ import annotations

from stepflow_broker.views.run_end_waits import RunEndWaits


class Waiter:
    """Notes what wakes it."""

    def __init__(self) -> None:
        self.woken: list[Exception | None] = []

    def __call__(self, error: Exception | None) -> None:
        self.woken.append(error)


def confirmation(run_id: str, kind: bytes = b"subscribe") -> list[object]:
    return [kind, b"ended:" + run_id.encode(), 1]


def message(run_id: str) -> list[object]:
    return [b"message", b"ended:" + run_id.encode(), b""]


def test_many_waiters_of_a_run_need_one_subscription() -> None:
    waits = RunEndWaits("ended:")
    first, second, other = Waiter(), Waiter(), Waiter()
    waits.add("a", first)
    waits.add("a", second)
    waits.add("b", other)
    assert waits.commands() == [("SUBSCRIBE", "ended:a", "ended:b")]
    assert waits.commands() == []
    waits.discard("a", first)
    assert waits.commands() == []
    waits.discard("a", second)
    assert waits.commands() == [("UNSUBSCRIBE", "ended:a")]
    assert (len(waits), bool(waits)) == (1, True)


def test_a_waiter_is_woken_once_by_the_confirmation_and_then_by_messages_only() -> None:
    waits = RunEndWaits("ended:")
    waiter, other = Waiter(), Waiter()
    waits.add("a", waiter)
    waits.add("b", other)
    waits.commands()
    assert not waits.is_confirmed("a")
    waits.receive(confirmation("a"))
    assert waits.is_confirmed("a")
    waits.receive(confirmation("z"))
    waits.receive(confirmation("a", b"unsubscribe"))
    waits.receive([b"unsubscribe", None, 0])
    assert waiter.woken == [None]
    waits.receive(message("a"))
    assert (waiter.woken, other.woken) == ([None, None], [])


def test_a_waiter_that_withdraws_before_its_subscription_is_sent_costs_nothing() -> None:
    waits = RunEndWaits("ended:")
    waiter = Waiter()
    waits.add("a", waiter)
    waits.discard("a", waiter)
    waits.discard("a", waiter)
    assert (waits.commands(), bool(waits)) == ([], False)
    waits.receive(message("a"))
    assert waiter.woken == []


def test_a_run_that_is_waited_for_again_is_subscribed_to_again() -> None:
    waits = RunEndWaits("ended:")
    waits.add("a", Waiter())
    waits.commands()
    waits.receive(confirmation("a"))
    waiter = next(iter(waits._waiters["a"]))
    waits.discard("a", waiter)
    assert waits.commands() == [("UNSUBSCRIBE", "ended:a")]
    assert not waits.is_confirmed("a")
    waits.add("a", waiter)
    waits.receive(confirmation("a", b"unsubscribe"))
    assert waits.commands() == [("SUBSCRIBE", "ended:a")]


def test_after_a_lost_connection_every_waiter_is_subscribed_and_woken_anew() -> None:
    waits = RunEndWaits("ended:")
    waiter = Waiter()
    waits.add("a", waiter)
    waits.commands()
    waits.receive(confirmation("a"))
    waits.forget_subscriptions()
    assert not waits.is_confirmed("a")
    assert waits.commands() == [("SUBSCRIBE", "ended:a")]
    waits.receive(confirmation("a"))
    assert waiter.woken == [None, None]


def test_an_error_reaches_all_waiters_and_the_next_one_subscribes_anew() -> None:
    waits = RunEndWaits("ended:")
    waiter, error = Waiter(), ValueError("refused")
    waits.add("a", waiter)
    waits.commands()
    waits.fail(error)
    assert waiter.woken == [error]
    assert waits.commands() == [("SUBSCRIBE", "ended:a")]
