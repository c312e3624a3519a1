"""The words that the glossary has replaced, and where a text uses one."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["OLD_NAMES", "OLD_PHRASES", "OLD_WORDS", "old_words_in"]

OLD_WORDS = {
    "beaten": "heartbeat, or renewed",
    "crier": "cron ticker",
    "dangling": "orphaned",
    "deputy": "lease sidecar",
    "dialogue": "operation",
    "gate": "concurrency limit",
    "gated": "waitlisted",
    "inbox": "notification listener",
    "keeper": "lease renewer",
    "lapse": "expire",
    "lapsed": "expired",
    "misled": "wrong node",
    "namesake": "stale registration",
    "quarantine": "isolation of poison suspects",
    "relay": "event forwarder",
    "relayed": "forwarded",
    "standin": "takeover",
    "station": "partition worker",
    "timekeeper": "maintenance",
    "unheard": "lost",
    "waker": "completion consumer",
    "workbench": "worker state",
}
"""A word, alone or as a part of a name → what to write. The plural counts as well."""

OLD_NAMES = {
    # functions, classes and fields
    "admit": "enqueue_or_wait",
    "away_parent": "remote_parent",
    "AwayEnd": "RemoteChildResult",
    "BoundsConfig": "CancellationConfig",
    "call_up": "promote",
    "CancelsRuns": "Client",
    "ChildAsked": "StartChild",
    "converse": "run_operation",
    "aconverse": "arun_operation",
    "deaf_children": "ignore_sigint_in_children",
    "drop_message": "ack_message",
    "EndedAway": "RemoteChildFinished",
    "EndWatcher": "RunEndSubscriber",
    "fn": "function_id",
    "go_on": "resume, or continue",
    "invoke_away": "invoke_remote_child",
    "is_passing": "is_retryable",
    "is_told": "knows, or has_message",
    "KeyMissingError": "EncryptionKeyMissingError",
    "looked_at": "has_condition",
    "memo_comes": "wake_run",
    "MissingRightError": "PermissionDeniedError",
    "patience_s": "retry_for_s",
    "PausesRuns": "Client",
    "put_aside": "defer",
    "ServerError": "BackendUnavailableError",
    "StartsRuns": "Client",
    "take_leave": "deregister",
    "TracksRuns": "RunTrackingMixin",
    "UnreadableError": "CorruptDataError",
    "wake_away": "wake_remote_parent",
    "WaitsLookedAt": "ConditionalWaitMatcher",
    # log events and findings
    "child_unheard": "child_result_lost",
    "chore_failed": "maintenance_failed",
    "death_not_registered": "worker_deregister_failed",
    "ended_goes": "expires_early",
    "ended_stays": "never_expires",
    "jobs_handed_back": "jobs_released",
    "line_stalled": "wait_list_stalled",
    "payload_not_opened": "payload_decryption_failed",
    "registered_again": "worker_reregistered",
    "run_damaged": "run_corrupt",
    "waited_low": "wait_count_low",
    "worker_goes_on": "worker_recovered",
    "worker_held_up": "worker_blocked",
}
"""A name → the name that it has now."""

OLD_PHRASES = {
    r"stand(s|ing)? in line": "waits in the wait list",
    r"stood in line": "waited in the wait list",
    r"in line for": "in the wait list of",
    r"put(s|ting)? aside": "defers",
    r"let(s|ting)? go (of|on)": "releases, or continues",
    r"(is|are|was|were) seen to": "is handled",
    r"(is|are|was|were) told of": "is notified of",
    r"(is|are) to be": "must be",
}
"""A pattern of words → what to write."""

_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_SPLIT = re.compile(r"\w+")
_FORMS = {form: word for word in OLD_WORDS for form in (word, f"{word}s")}
_PHRASES = [(re.compile(rf"\b{pattern}\b", re.IGNORECASE), pattern) for pattern in OLD_PHRASES]


def old_words_in(text: str) -> Iterator[tuple[int, str, str]]:
    """Each old word in a text: the number of its line, the word, and what to write."""
    for number, line in enumerate(text.splitlines(), 1):
        for name in _SPLIT.findall(line):
            if name in OLD_NAMES:
                yield number, name, OLD_NAMES[name]
            for part in _PARTS.findall(name):
                if word := _FORMS.get(part.lower()):
                    yield number, part, OLD_WORDS[word]
        for pattern, key in _PHRASES:
            if found := pattern.search(line):
                yield number, found[0], OLD_PHRASES[key]
