"""A TLS 1.3 client that writes its own records: those that OpenSSL's interface never sends.

Facts
-----
* OpenSSL does the handshake. The key log has the traffic secret (RFC 8446 section 7.1), with which
  the records are sealed here (section 5.2). The client's OpenSSL only reads from then on.
* A KeyUpdate replaces the secret by the next one (section 7.2) and begins with record 0 again.
"""

from __future__ import annotations

import contextlib
import hmac
import itertools
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL

__all__ = ["RecordClient", "tls12_sealer"]

_APPLICATION_DATA, _HANDSHAKE = 23, 22
_SECRET = "CLIENT_TRAFFIC_SECRET_0"
_SUITE = b"TLS_AES_128_GCM_SHA256"


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    """Apply HKDF-Expand-Label of RFC 8446 section 7.1, with an empty context."""
    info = length.to_bytes(2, "big") + bytes([6 + len(label)]) + b"tls13 " + label + b"\0"
    return HKDFExpand(hashes.SHA256(), length, info).derive(secret)


class RecordClient:
    """A client in memory. ``tls``: its connection, for the handshake and the received records."""

    def __init__(self, certificate: Any = None, private_key: Any = None) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_tls13_ciphersuites(_SUITE)
        context.set_keylog_callback(self._log_key)
        if certificate is not None:
            context.use_certificate(certificate)
            context.use_privatekey(private_key)
        self.tls = SSL.Connection(context, None)
        self.tls.set_connect_state()
        self._secret = b""

    def _log_key(self, _connection: SSL.Connection, line: bytes) -> None:
        label, _, secret = line.decode("ascii").split(" ")
        if label == _SECRET:
            self._use(bytes.fromhex(secret))

    def _use(self, secret: bytes) -> None:
        self._secret, self._number = secret, 0
        self._key = AESGCM(_expand(secret, b"key", 16))
        self._iv = int.from_bytes(_expand(secret, b"iv", 12), "big")

    # The handshake.

    def step(self, received: bytes = b"") -> bytes:
        """Continue the handshake; return the bytes to send."""
        if received:
            self.tls.bio_write(received)
        with contextlib.suppress(SSL.WantReadError):
            self.tls.do_handshake()
        with contextlib.suppress(SSL.WantReadError):
            return self.tls.bio_read(1 << 20)
        return b""

    # Records, sealed with the client's keys.

    def seal(self, content: bytes, kind: int = _APPLICATION_DATA) -> bytes:
        """Seal one record; without content it is an empty one."""
        nonce = (self._iv ^ self._number).to_bytes(12, "big")
        self._number += 1
        inner = content + bytes([kind])
        head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        return head + self._key.encrypt(nonce, inner, head)

    def key_update(self, answered: bool = False) -> bytes:
        """Make a KeyUpdate, and use the next keys after it.

        ``answered``: it requests one in return (RFC 8446 section 4.6.3).
        """
        record = self.seal(b"\x18\0\0\x01" + bytes([answered]), _HANDSHAKE)
        self._use(_expand(self._secret, b"traffic upd", 32))
        return record


def tls12_sealer(client: SSL.Connection) -> Callable[[bytes], bytes]:
    """Return a function that seals handshake messages after a TLS 1.2 handshake.

    The cipher is AES-128-GCM (RFC 5288).
    """
    master, ours, theirs = client.master_key(), client.client_random(), client.server_random()
    assert master is not None and ours is not None and theirs is not None
    block = _prf(master, b"key expansion" + theirs + ours, 40)
    key, salt = AESGCM(block[:16]), block[32:36]
    numbers = itertools.count(1)  # Finished was 0

    def seal(message: bytes) -> bytes:
        number = next(numbers).to_bytes(8, "big")
        kind = bytes([_HANDSHAKE]) + b"\x03\x03"
        aad = number + kind + len(message).to_bytes(2, "big")
        sealed = number + key.encrypt(salt + number, message, aad)
        return kind + len(sealed).to_bytes(2, "big") + sealed

    return seal


def _prf(secret: bytes, seed: bytes, length: int) -> bytes:
    """Apply P_SHA256 of RFC 5246 section 5."""
    found, step = b"", seed
    while len(found) < length:
        step = hmac.digest(secret, step, "sha256")
        found += hmac.digest(secret, step + seed, "sha256")
    return found[:length]
