"""A handler that is not callable."""

from __future__ import annotations

from stepflow import Stepflow

app = Stepflow("uncallable")
app.function("not-code")("not code")  # type: ignore[type-var]
