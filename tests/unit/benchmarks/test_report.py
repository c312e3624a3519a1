"""Topics, tables, the page and the chart."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.chart import chart
from benchmarks.report import BEGIN, END, ReportError, measured, replaced
from benchmarks.results import Results
from benchmarks.tables import figure, table
from benchmarks.topics import topics
from tests.unit.benchmarks.samples import results, sample

TAKEN = results(
    sample("rq", settings="<slow> & forking", seconds=10.0),
    sample("rq", settings="<slow> & forking", seconds=20.0),
    sample("rq", settings="<slow> & forking", seconds=30.0),
    sample("stepflow", workload="seq10", in_flight=200, unit="step", count=20_000),
    sample("stepflow", workload="seq10", in_flight=1, unit="step", count=4_000, server="redis 7.0.15"),
    sample("restate", workload="seq10", in_flight=1, unit="step", count=1_000),
    sample("stepflow", workload="fan1000", in_flight=200, unit="step"),
)


def test_jobs_of_queues_are_compared_with_steps_of_many_runs():
    topic = topics(TAKEN.spreads())[0]
    assert [spread.median.system for spread in topic.spreads] == ["stepflow", "rq"]
    assert [topic.ratio(spread) for spread in topic.spreads] == [1, pytest.approx(200)]
    assert topic.spreads[1].slowest == pytest.approx(1000 / 30)


def test_the_less_time_a_step_takes_the_better():
    topic = next(topic for topic in topics(TAKEN.spreads()) if topic.slow)
    assert [spread.median.system for spread in topic.spreads] == ["stepflow", "restate"]
    assert topic.ratio(topic.spreads[1]) == pytest.approx(4)


def test_a_workload_without_a_question_is_a_topic_of_its_own():
    assert topics(TAKEN.spreads())[-1].title == "Steps a second (`fan1000`, 200 in flight)"


def test_without_stepflow_there_are_no_ratios():
    topic = topics(results(sample("rq")).spreads())[0]
    assert topic.ratio(topic.spreads[0]) is None
    assert "×" not in table(topic)


def test_a_topic_of_stepflow_alone_has_no_ratios():
    topic = topics(TAKEN.spreads())[-1]
    assert not topic.compares
    assert topic.ratio(topic.spreads[0]) is None


def test_a_table_has_a_row_a_case_and_as_many_cells_in_each():
    lines = table(topics(TAKEN.spreads())[0]).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert "200 ×" in lines[-1]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.034, "0.034"), (0.17, "0.17"), (3.333, "3.33"), (9.996, "10.0"), (35.71, "35.7"), (24900, "24,900")],
)
def test_figures_have_the_digits_that_count(value: float, shown: str):
    assert figure(value) == shown


def test_the_prose_around_the_measured_part_is_kept():
    page = f"# Performance\n\n{BEGIN}\nold\n{END}\n\nMore prose.\n"
    again = replaced(replaced(page, "new"), "newer")
    assert again == f"# Performance\n\n{BEGIN}\n\nnewer\n\n{END}\n\nMore prose.\n"


def test_a_page_without_marks_is_refused():
    with pytest.raises(ReportError, match="no marks"):
        replaced("# Performance\n", "new")


def test_the_page_of_the_project_has_the_marks():
    page = Path(__file__).parents[3] / "docs" / "performance.md"
    assert replaced(page.read_text(), "new") != page.read_text()


def test_the_measured_part_says_where_when_and_how():
    TAKEN.failures["dbos"] = "no PostgreSQL"
    text = measured(TAKEN, topics(TAKEN.spreads()))
    for fact in ("2030-01-02", "2 cores", "redis 7.0.15", "`python -m benchmarks.peers`", "Medians of 1–3", "dbos"):
        assert fact in text


def test_the_chart_is_well_formed_and_has_a_bar_for_each_case_that_is_compared():
    drawn = ElementTree.fromstring(chart(topics(TAKEN.spreads()), TAKEN))
    bars = [e for e in drawn.iter("{http://www.w3.org/2000/svg}rect") if "bar" in e.attrib["class"].split()]
    assert len(bars) == 4
    assert all(0 < float(bar.attrib["width"]) <= 900 for bar in bars)


def test_results_come_back_from_their_file(tmp_path: Path):
    TAKEN.save(tmp_path / "new" / "results.json")
    assert Results.load(tmp_path / "new" / "results.json") == TAKEN
