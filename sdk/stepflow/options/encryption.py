"""Encryption: the keys with which the payloads of an app are kept from those who can read the server."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence

from stepflow_engine.cipher import KEY_BYTES, NO_ENCRYPTION, Cipher, key_id
from stepflow_engine.errors import ConfigurationError

__all__ = ["Encryption", "cipher_of"]

_VARIABLE = "STEPFLOW_ENCRYPTION_KEYS"
_FORM = "a key is 32 random bytes, or their base64 text, as Encryption.generate_key() makes it"


class Encryption:
    """Encrypts what an app stores: data of events, results of steps and runs, messages and tracebacks of failures.

    The first key encrypts, all decrypt. To change keys, first add the new one at the end in all processes, then move it
    to the front, and drop the old one when the retention of what it has encrypted is over.

    Args:
        keys: each 32 bytes, or their base64 text; see `generate_key`.

    Raises:
        ConfigurationError: there is no key, one is not of that form, or the package ``cryptography`` is missing.
    """

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        if isinstance(keys, str | bytes) or not isinstance(keys, Sequence) or not keys:
            raise ConfigurationError(f"Encryption needs a list of at least one key: {_FORM}")
        self._keys = tuple(_key(key, f"key {number} of Encryption") for number, key in enumerate(keys, 1))
        _check_installed()

    def __repr__(self) -> str:
        return f"Encryption({', '.join(self.key_ids)})"

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of the keys, which are no secret: errors name them, and so does what is encrypted."""
        return tuple(key_id(key) for key in self._keys)

    @property
    def cipher(self) -> Cipher:
        """What does it."""
        return Cipher(self._keys)

    @staticmethod
    def generate_key() -> str:
        """A new random key, as text."""
        return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def cipher_of(encryption: Encryption | None) -> Cipher:
    """The cipher of an app: its own keys, then those of ``STEPFLOW_ENCRYPTION_KEYS``, with commas between them.

    Raises:
        ConfigurationError: the variable is wrong.
    """
    texts = [text.strip() for text in os.environ.get(_VARIABLE, "").split(",")]
    keys = [_key(text, f"key {number} of {_VARIABLE}") for number, text in enumerate(texts, 1) if text]
    if keys:
        _check_installed()
    return (encryption.cipher if encryption else NO_ENCRYPTION).merged_with(Cipher(keys))


def _key(given: object, what: str) -> bytes:
    """A key of what was given; no error shows any of it."""
    try:
        key = base64.b64decode(given, validate=True) if isinstance(given, str) else given
    except (binascii.Error, ValueError):
        raise ConfigurationError(f"{what} is not base64: {_FORM}") from None
    if not isinstance(key, bytes):
        raise ConfigurationError(f"{what} is {type(key).__name__}: {_FORM}")
    if len(key) != KEY_BYTES:
        raise ConfigurationError(f"{what} has {len(key)} bytes: {_FORM}")
    return key


def _check_installed() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            "encryption needs the package cryptography, which is not installed: pip install 'stepflow[encryption]'"
        ) from None
