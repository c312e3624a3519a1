"""The cipher: seals payloads before they are sent to Redis, and opens them.

A sealed payload is JSON, ``{"$enc":"<key id>.<base64>"}``, so scripts handle it like any other. The algorithm is
AES-256-GCM. Each scope (a step of a run, the output of a run, an event) has its own data key, which HMAC derives from
the key and the scope. The scope is also the associated data. So a payload that was moved to another scope does not open
there, and no data key is used often enough for two random nonces to collide.

Data of a user that looks like a sealed payload is wrapped as ``{"$enc":[…]}``, so that it is opened as data.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Iterable
from typing import Any

from stepflow_engine.codec import dumps, loads
from stepflow_engine.errors import ConfigurationError, DecryptionError, EncryptionKeyMissingError
from stepflow_engine.product import NAME, install_command

__all__ = ["KEY_BYTES", "MARK", "NO_ENCRYPTION", "Cipher", "Scope", "is_sealed", "key_id"]

KEY_BYTES = 32
MARK = "$enc"
"""The one key of a sealed payload."""
Scope = tuple[str, ...]
"""Where a payload belongs: its kind, then ids: ``("step", run id, step key)``."""
_HEAD = b'{"%b":' % MARK.encode()
_NONCE_BYTES = 12
_KEY_ID_CONTEXT = f"{NAME} key id\0".encode()
_DATA_KEY_CONTEXT = f"{NAME} payload\0".encode()


def key_id(key: bytes) -> str:
    """The id of a key, which sealed payloads contain. It reveals nothing about the key."""
    return hashlib.sha256(_KEY_ID_CONTEXT + key).hexdigest()[:12]


def is_sealed(value: Any) -> bool:
    """Whether parsed JSON is a sealed payload, or wrapped data that looks like one."""
    return type(value) is dict and len(value) == 1 and MARK in value


class Cipher:
    """Seals with the first of its keys, and opens with all of them. Without keys, it only wraps what looks sealed.

    Args:
        keys: the keys, of 32 bytes each.
    """

    __slots__ = ("_first", "_keys")

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self._keys = {key_id(key): key for key in keys}
        self._first = next(iter(self._keys), "")

    def __repr__(self) -> str:
        return f"Cipher({', '.join(self._keys)})"

    @property
    def encrypts(self) -> bool:
        """Whether it has a key."""
        return bool(self._first)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of its keys. It seals with the first."""
        return tuple(self._keys)

    def merged_with(self, *others: Cipher) -> Cipher:
        """A cipher with the keys of this one and of the others."""
        return Cipher(key for cipher in (self, *others) for key in cipher._keys.values())

    def seal(self, text: bytes, scope: Scope) -> bytes:
        """The stored form of a payload. Both are JSON text."""
        if not self._first:
            return _HEAD + b"[" + text + b"]}" if text.startswith(_HEAD) else text
        nonce = os.urandom(_NONCE_BYTES)
        sealed = _aead(self._keys[self._first], scope).encrypt(nonce, text, dumps(scope))
        return b'%b"%b.%b"}' % (_HEAD, self._first.encode(), base64.b64encode(nonce + sealed))

    def digest(self, text: bytes, scope: Scope) -> str:
        """A digest of a text within a scope, in hex digits. With a key, nobody without the key can compute it."""
        key = self._keys.get(self._first, b"")
        return hmac.digest(key, dumps(scope) + b"\0" + text, "sha256").hex()

    def open(self, value: Any, *scopes: Scope) -> Any:
        """The payload of a stored form.

        Args:
            value: the stored form, as parsed JSON. It is returned if it is not sealed.
            scopes: the scopes that the payload may have. There are several where the stored data does not say which.

        Raises:
            EncryptionKeyMissingError: this process does not have the key.
            DecryptionError: the payload belongs to another scope, or was altered.
        """
        if not is_sealed(value):
            return value
        match value[MARK]:
            case [plain]:
                return plain
            case str(sealed):
                return loads(self._open(sealed, scopes))
            case _:
                why = "its form is unknown to this version"
                raise DecryptionError(_cannot_open(scopes, why), is_final=False)

    def _open(self, sealed: str, scopes: tuple[Scope, ...]) -> bytes:
        name, _, coded = sealed.partition(".")
        key = self._keys.get(name)
        if key is None:
            raise EncryptionKeyMissingError(name, _what(scopes))
        try:
            content = base64.b64decode(coded.encode("ascii", "replace"), validate=True)
        except binascii.Error:
            raise DecryptionError(_cannot_open(scopes, "malformed base64"), key_id=name) from None
        from cryptography.exceptions import InvalidTag

        for scope in scopes:
            try:
                text: bytes = _aead(key, scope).decrypt(content[:_NONCE_BYTES], content[_NONCE_BYTES:], dumps(scope))
                return text
            except (InvalidTag, ValueError):
                continue
        raise DecryptionError(_cannot_open(scopes, "it belongs to another scope, or was altered"), key_id=name)


def _aead(key: bytes, scope: Scope) -> Any:
    """AES-GCM with the data key of a scope."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise ConfigurationError(
            f"encryption: the package cryptography is not installed: {install_command('encryption')}"
        ) from None
    return AESGCM(hmac.digest(key, _DATA_KEY_CONTEXT + dumps(scope), "sha256"))


def _what(scopes: tuple[Scope, ...]) -> str:
    """A scope for an error. The ids are cut, because the id of an event may be long."""
    kind, *ids = scopes[0] if scopes else ("payload",)
    names = [repr(one[:100]) for one in ids]
    if names and kind != "event" and not kind.startswith("batch "):
        return f"run {names[0]} ({' '.join([kind, *names[1:]])})"
    return " ".join([kind, *names])


def _cannot_open(scopes: tuple[Scope, ...], why: str) -> str:
    return f"encrypted payload of {_what(scopes)} cannot be opened: {why}; the payload was not used"


NO_ENCRYPTION = Cipher()
"""The cipher without keys."""
