"""The id of an app."""

from __future__ import annotations

from stepflow_engine.limits import check_id

__all__ = ["checked_app_id"]


def checked_app_id(app_id: object, what: str = "app id") -> str:
    """Return the id of an app, if an app can have it.

    Args:
        what: the name of the value in an error.

    Raises:
        ValueError: it is not text, or is empty or too long, or contains ``/``, ``,`` or a space, or ends with
            ``:steps``.
    """
    text = check_id(app_id, what)
    if set(text) & set("/, ") or text.endswith(":steps"):
        raise ValueError(f"{what} must not contain '/', ',' or a space, or end with ':steps', got {text!r:.100}")
    return text
