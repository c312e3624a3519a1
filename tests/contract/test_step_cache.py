"""cache_result: the result of a step for other runs, until it expires or there are too many."""

from __future__ import annotations

from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.steps.step_cache import cache_result, read_cached_result
from tests.support.driver import Driver

DIGEST = "00ff" + "a" * 60


def cache(driver: Driver, digest: str, text: bytes = b'{"data":1}', *, ttl_ms: int = 60_000) -> ScriptStatus:
    return driver.store.broker.execute(cache_result(driver.partition, digest, text, ttl_ms=ttl_ms))


def test_a_result_is_read_until_it_expires_and_the_last_one_counts(driver: Driver) -> None:
    assert driver.send(read_cached_result(driver.partition, DIGEST)) == b""
    for text in (b'{"data":1}', b'{"data":2}'):
        assert cache(driver, DIGEST, text) is ScriptStatus.DONE
        assert driver.send(read_cached_result(driver.partition, DIGEST)) == text
    for key in (driver.keys("CACHED_RESULT", DIGEST), driver.keys("CACHED_RESULTS")):
        assert 0 < driver.client.pttl(key) <= 60_000


def test_the_list_of_results_lives_as_long_as_its_last_member_and_forgets_what_expired(driver: Driver) -> None:
    cache(driver, DIGEST, ttl_ms=600_000)
    cache(driver, "11" + DIGEST[2:], ttl_ms=1_000)
    assert driver.client.pttl(driver.keys("CACHED_RESULTS")) > 500_000
    driver.advance(2_000)
    cache(driver, "22" + DIGEST[2:], ttl_ms=1_000)
    assert driver.client.zcard(driver.keys("CACHED_RESULTS")) == 2


def test_above_the_largest_number_the_results_that_expire_first_are_deleted(driver: Driver) -> None:
    cache(driver, DIGEST, ttl_ms=40_000)
    driver.client.zadd(
        driver.keys("CACHED_RESULTS"), {f"{number:064x}": driver.now_ms + 50_000 + number for number in range(9_999)}
    )
    cache(driver, "33" + DIGEST[2:])
    assert driver.client.zcard(driver.keys("CACHED_RESULTS")) == 10_000
    assert driver.send(read_cached_result(driver.partition, DIGEST)) == b""
    assert driver.send(read_cached_result(driver.partition, "33" + DIGEST[2:])) != b""
