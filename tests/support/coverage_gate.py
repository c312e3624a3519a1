"""The gate of ``make coverage``: fails when the tests execute less than 95 % of the product's lines.

Branches are measured and reported too, but the gate counts lines.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

__all__ = ["line_coverage"]

LEAST_PERCENT = 95.0


def line_coverage(report: Path) -> float:
    """The covered lines in percent, from the file that ``coverage json`` writes."""
    totals = json.loads(report.read_text())["totals"]
    return float(100 * totals["covered_lines"] / totals["num_statements"])


def main() -> int:
    """Read the report that the command line names; the exit code is 1 below the gate."""
    percent = line_coverage(Path(sys.argv[1]))
    print(f"{percent:.1f} % of the product's lines are covered; at least {LEAST_PERCENT} % are required")
    return 0 if percent >= LEAST_PERCENT else 1


if __name__ == "__main__":
    raise SystemExit(main())
