"""Samples of stepflow."""

from __future__ import annotations

import importlib.metadata

from benchmarks.command import Case
from benchmarks.meter import between
from benchmarks.rig import Server, Span
from benchmarks.sample import Sample
from benchmarks.topics import OURS

__all__ = ["sampled"]


def sampled(case: Case, span: Span, server: Server, settings: str = "") -> Sample:
    """What was measured, as a sample.

    Args:
        case: what was to be measured.
        span: the notes between which it was.
        server: where.
        settings: what sets it apart from other samples of the case.
    """
    return between(
        *span,
        system=OURS,
        version=importlib.metadata.version(OURS),
        workload=case.workload,
        in_flight=case.in_flight,
        unit=case.unit,
        settings=", ".join(filter(None, (settings, case.settings))),
        server=server.version,
    )
