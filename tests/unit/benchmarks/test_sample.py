"""Samples and their medians."""

from __future__ import annotations

import pytest

from benchmarks.sample import Sample, median
from tests.unit.benchmarks.samples import sample


def test_a_sample_says_what_one_unit_took():
    taken = sample(count=1000, seconds=2.0, in_flight=10, worker_cpu_s=1.0, server_cpu_s=0.5)
    assert (taken.per_s, taken.ms_each, taken.worker_us, taken.server_us) == (500, 20, 1000, 500)


def test_a_sample_comes_back_from_its_line_of_json():
    taken = sample(worker_cpu_s=1.25, settings="4 threads", server="redis 7.0.15")
    assert Sample.from_json(taken.to_json()) == taken
    assert "\n" not in taken.to_json()


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"system": "rq"}', "no JSON"])
def test_a_line_that_is_no_sample_is_refused(line: str):
    with pytest.raises(ValueError):  # noqa: PT011  of json, or ours
        Sample.from_json(line)


def test_each_figure_has_a_median_of_its_own():
    taken = [
        sample(seconds=1.0, worker_cpu_s=0.3, worker_rss_mb=30),
        sample(seconds=9.0, worker_cpu_s=0.1, worker_rss_mb=10),
        sample(seconds=2.0, worker_cpu_s=0.2, worker_rss_mb=20),
    ]
    middle = median(taken)
    assert (middle.seconds, middle.worker_cpu_s, middle.worker_rss_mb) == pytest.approx((2.0, 0.2, 20))


def test_repetitions_of_different_lengths_are_compared_per_unit():
    assert median([sample(count=100, seconds=1.0), sample(count=200, seconds=2.0)]).per_s == pytest.approx(100)


def test_there_is_no_median_of_different_cases():
    with pytest.raises(ValueError, match="one case"):
        median([sample("rq"), sample("celery")])
    with pytest.raises(ValueError, match="one case"):
        median([])
