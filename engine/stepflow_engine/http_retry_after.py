"""The header ``Retry-After`` of the HTTP response that an error carries: when the server wants the next request.

Read from the errors of httpx, requests, aiohttp, urllib and botocore by their attributes, so none of them is needed:
``error.response`` or the error itself has a status and headers. Times are those of RFC 9110, 10.2.3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

__all__ = ["http_retry_after_ms"]

_FIRST_ERROR_STATUS = 400
_SECONDS = re.compile(r"[0-9]{1,9}")
_MAX_TEXT = 64


def http_retry_after_ms(error: BaseException, now_ms: int) -> int | None:
    """The delay that the HTTP response of an error demands, in milliseconds; ``None``: it demands none.

    Args:
        error: any error.
        now_ms: the time, in milliseconds since the epoch, for a header with a date.
    """
    try:
        status, headers = _response(error)
        return _delay_ms(headers, now_ms) if int(status) >= _FIRST_ERROR_STATUS else None
    except BaseException:  # noqa: BLE001  user code: the error and its attributes
        return None


def _response(error: Any) -> tuple[Any, Any]:
    """The status and the headers of the response that an error has."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        metadata = response["ResponseMetadata"]
        return metadata["HTTPStatusCode"], metadata["HTTPHeaders"]
    source = error if response is None else response
    statuses = (getattr(source, name, None) for name in ("status_code", "status", "code"))
    return next(status for status in statuses if status is not None), source.headers


def _delay_ms(headers: Any, now_ms: int) -> int | None:
    value = headers.get("Retry-After") or headers.get("retry-after")
    text = str(value or "").strip()[:_MAX_TEXT]
    if _SECONDS.fullmatch(text):
        return int(text) * 1000
    if not text:
        return None
    moment = parsedate_to_datetime(text)
    at = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0, round(at.timestamp() * 1000) - now_ms)
