"""Encryption: the keys that encrypt the payloads of an app before they are sent to Redis."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence

from stepflow_engine.cipher import KEY_BYTES, NO_ENCRYPTION, Cipher, key_id
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.product import ENCRYPTION_KEYS, install_command

__all__ = ["Encryption", "cipher_of"]

_FORM = "a key is 32 random bytes, or their base64 text, as Encryption.generate_key() makes it"


class Encryption:
    """Encrypts what an app stores: data of events, results of steps and runs, messages and tracebacks of failures.

    The first key encrypts; all keys decrypt. To rotate keys, add the new key at the end in all processes, then move it
    to the front in all processes, and remove the old key when the retention of the data it has encrypted is over. If a
    key is lost, the data encrypted with it cannot be recovered.

    Args:
        keys: the keys, each 32 bytes or their base64 text; see `generate_key`.

    Raises:
        ConfigurationError: there is no key, a key is invalid, or the package ``cryptography`` is not installed.

    Example::

        app = Stepflow("shop", encryption=Encryption([os.environ["SHOP_KEY"]]))
    """

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        if isinstance(keys, str | bytes) or not isinstance(keys, Sequence) or not keys:
            raise ConfigurationError(f"Encryption: keys must be a list of at least one key: {_FORM}")
        self._keys = tuple(_key(key, f"Encryption: key {number}") for number, key in enumerate(keys, 1))
        _check_installed()

    def __repr__(self) -> str:
        return f"Encryption({', '.join(self.key_ids)})"

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of the keys. They are not secret: errors and encrypted payloads contain them."""
        return tuple(key_id(key) for key in self._keys)

    @property
    def cipher(self) -> Cipher:
        """The cipher with these keys."""
        return Cipher(self._keys)

    @staticmethod
    def generate_key() -> str:
        """A new random key, as base64 text.

        Example::

            print(Encryption.generate_key())
        """
        return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def cipher_of(encryption: Encryption | None) -> Cipher:
    """The cipher of an app: its own keys, then the comma-separated keys of ``STEPFLOW_ENCRYPTION_KEYS``.

    Raises:
        ConfigurationError: a key of the variable is invalid.
    """
    texts = [text.strip() for text in os.environ.get(ENCRYPTION_KEYS, "").split(",")]
    keys = [_key(text, f"{ENCRYPTION_KEYS}: key {number}") for number, text in enumerate(texts, 1) if text]
    if keys:
        _check_installed()
    return (encryption.cipher if encryption else NO_ENCRYPTION).merged_with(Cipher(keys))


def _key(value: object, what: str) -> bytes:
    """The bytes of a key. No error message contains any part of it."""
    try:
        key = base64.b64decode(value, validate=True) if isinstance(value, str) else value
    except (binascii.Error, ValueError):
        raise ConfigurationError(f"{what} must be base64: {_FORM}") from None
    if not isinstance(key, bytes):
        raise ConfigurationError(f"{what} must be bytes or text, got {type(key).__name__}: {_FORM}")
    if len(key) != KEY_BYTES:
        raise ConfigurationError(f"{what} must be {KEY_BYTES} bytes, got {len(key)}: {_FORM}")
    return key


def _check_installed() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            f"encryption: the package cryptography is not installed: {install_command('encryption')}"
        ) from None
