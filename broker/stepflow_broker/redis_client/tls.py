"""TLS errors: which of them are permanent, and how to fix them."""

from __future__ import annotations

import ssl

__all__ = ["explain_tls", "tls_error"]

_CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"
_PLAIN = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST")
_OURS = ("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "UNKNOWN_CA", "CERTIFICATE_UNKNOWN", "CERTIFICATE_EXPIRED")
_VERSION = ("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "HANDSHAKE_FAILURE", "NO_SHARED_CIPHER", "NO_CIPHER_MATCH")
_FILES = ("PEM", "X509", "BAD_DECRYPT", "KEY_VALUES_MISMATCH", "ASN1", "NO_START_LINE", "DECODER", "EE_KEY_TOO_SMALL")
_LASTING = (_CERTIFICATE, *_PLAIN, *_OURS, *_VERSION, *_FILES)


def tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """The permanent TLS error that caused an error; ``None``: there is none.

    An error that a lost connection can also cause does not count.
    """
    while error is not None:
        if isinstance(error, ssl.SSLError) and any(word in _text(error) for word in _LASTING):
            return error
        error = error.__cause__ or error.__context__
    return None


def explain_tls(error: ssl.SSLError) -> str:
    """Text that says what is wrong and what to do."""
    text, reason = _text(error), (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not accepted ({error.verify_message}): name the file of its CA in ssl_ca_certs=, and "
            "the host in redis_url as the certificate names it"
        )
    if any(word in text for word in _PLAIN):
        return f"this port does not speak TLS ({reason}): write the server's tls-port, or redis:// without TLS"
    if any(word in text for word in _OURS):
        return (
            f"it does not accept this client's certificate, or wants one ({reason}): give ssl_certfile= and "
            "ssl_keyfile= in redis_url, signed by a CA that the server knows"
        )
    if any(word in text for word in _VERSION):
        return f"client and server have no version or cipher of TLS in common ({reason}): look at tls-protocols"
    return (
        f"the certificate, key or CA that redis_url names cannot be used ({reason}): use PEM files that belong "
        "together, and ssl_password_file= for a key with a password"
    )


def _text(error: ssl.SSLError) -> str:
    return f"{error.library or ''} {error.reason or ''} {error}".upper().replace(" ", "_")
