"""A sample: what one measurement of one system gave, the same for every system. One line of JSON each.

Standard library only: this file is imported in the virtual environments of the peers.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

__all__ = ["Sample", "median"]

_MEASURED = ("seconds", "worker_cpu_s", "server_cpu_s", "worker_rss_mb", "server_rss_mb", "steal_s")


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement.

    Attributes:
        system, version: what was measured: ``rq``, ``3.0.0``.
        workload: which work: ``jobs``, ``start``, ``seq10``.
        in_flight: how much of it the worker had at hand at once.
        unit: what is counted: ``job``, ``step``, ``child``, ``start``.
        count: how many were done in the measured time.
        seconds: the measured time.
        worker_cpu_s, server_cpu_s: processor time in the measured time. For a producer's workload the worker is
            the producer.
        worker_rss_mb, server_rss_mb: memory at the end of the measured time.
        steal_s: what the host took from this machine in the measured time, summed over the cores.
        settings: the configuration that was measured.
        server: the server and its version: ``redis 7.0.15``.
    """

    system: str
    version: str
    workload: str
    in_flight: int
    unit: str
    count: int
    seconds: float
    worker_cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    worker_rss_mb: float = 0.0
    server_rss_mb: float = 0.0
    steal_s: float = 0.0
    settings: str = ""
    server: str = ""

    @property
    def per_s(self) -> float:
        """How many a second."""
        return self.count / self.seconds

    @property
    def ms_each(self) -> float:
        """How long one of them took, in ms, with ``in_flight`` of them at once."""
        return self.seconds * 1000 * self.in_flight / self.count

    @property
    def worker_us(self) -> float:
        """Processor time of the worker for each, in µs."""
        return self.worker_cpu_s * 1e6 / self.count

    @property
    def server_us(self) -> float:
        """Processor time of the server for each, in µs."""
        return self.server_cpu_s * 1e6 / self.count

    @property
    def case(self) -> tuple[str, str, int, str]:
        """What is measured: samples of one case are repetitions of each other."""
        return self.system, self.workload, self.in_flight, self.settings

    def to_json(self) -> str:
        """One line; the derived figures are in it for people, and are not read back."""
        derived = {name: round(getattr(self, name), 3) for name in ("per_s", "ms_each", "worker_us", "server_us")}
        return json.dumps(asdict(self) | derived)

    @classmethod
    def from_json(cls, line: str) -> Sample:
        """Read what `to_json` has written.

        Raises:
            ValueError: it is not a sample.
        """
        data = json.loads(line)
        if not isinstance(data, dict):
            raise ValueError(f"{line!r} is not a sample: it is not a JSON object")
        try:
            return cls(**{field.name: data[field.name] for field in fields(cls) if field.name in data})
        except TypeError as error:
            raise ValueError(f"{line!r} is not a sample: {error}") from None


def median(samples: Iterable[Sample]) -> Sample:
    """The median of repetitions of one case, of each measured figure by itself, at the first one's count.

    Figures are taken per unit, so repetitions of different lengths can be compared.

    Raises:
        ValueError: there are no samples, or they are of different cases.
    """
    found = list(samples)
    if len({sample.case for sample in found}) != 1:
        raise ValueError(f"a median needs repetitions of one case, not {sorted({sample.case for sample in found})}")
    first = found[0]
    whole = asdict(first)
    for name in _MEASURED:
        each = (getattr(sample, name) / (1 if name.endswith("_mb") else sample.count) for sample in found)
        whole[name] = statistics.median(each) * (1 if name.endswith("_mb") else first.count)
    return Sample(**whole)
