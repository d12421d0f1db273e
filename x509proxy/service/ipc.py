"""What the parent and its workers say to each other over their pipes: frames, and what is in them.

Down, from the parent to a worker: pickles. A configuration holds keys, certificates and revocation lists, which pickle does not
know and which are named here; whatever else it comes to hold goes by itself. Up: JSON, and never pickles: a worker speaks with
the whole world, and what it says must not run in the parent.

Why pickles are safe on the way down: a pipe that the parent has made is the only thing they are read from, its other end is the
parent's, and whoever could write to it could just as well trace the worker. All the same, nothing is loaded but classes of ours,
and the three functions below that make certificates, lists and keys.
"""

from __future__ import annotations

import enum
import io
import pickle
import struct
from collections.abc import Iterator
from typing import Any

import attrs
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from x509proxy.certificates.pem_files import PrivateKey
from x509proxy.config.loader import Configuration

__all__ = ["Frames", "Message", "Task", "frame", "pack", "read_message", "unpack", "write_message"]

Message = dict[str, Any]
"""A small thing to say: ``kind``, and what belongs to it."""

_LENGTH = struct.Struct("!I")
_LARGEST = (
    1 << 28
)  # bytes; ten revocation lists of the largest size (x509proxy.certificates.pem_files)


@attrs.frozen
class Task:
    """What a worker is to do. ``sockets``: number and address family of each; ``access_log``: the number of its descriptor."""

    configuration: Configuration
    sockets: tuple[tuple[int, int], ...]
    access_log: int | None = None


class Frames:
    """Bytes to frames. Each has its length before it, four bytes."""

    def __init__(self, largest: int = _LARGEST) -> None:
        self._largest = largest
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that are complete now.

        :raises ValueError: one that is too long.
        """
        self._data += data
        while len(self._data) >= _LENGTH.size:
            [length] = _LENGTH.unpack_from(self._data)
            if length > self._largest:
                raise ValueError(
                    f"found a frame of {length} bytes, expected {self._largest} or less"
                )
            end = _LENGTH.size + length
            if len(self._data) < end:
                return
            content = bytes(self._data[_LENGTH.size : end])
            del self._data[:end]
            yield content


def frame(content: bytes) -> bytes:
    """The content with its length before it."""
    return _LENGTH.pack(len(content)) + content


def write_message(message: Message) -> bytes:
    """A message as JSON."""
    return msgspec.json.encode(message)


def read_message(content: bytes) -> Message:
    """A message from JSON.

    :raises ValueError: it is no object with a ``kind``.
    """
    message = msgspec.json.decode(content)
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        raise ValueError("found no message, expected an object with a kind")
    return message


def pack(thing: Task | Configuration | Message) -> bytes:
    """What the parent says, as a pickle."""
    out = io.BytesIO()
    _Pickler(out, pickle.HIGHEST_PROTOCOL).dump(thing)
    return out.getvalue()


def unpack(content: bytes) -> Any:
    """What the parent has said.

    :raises Exception: of any kind; it was packed by another version of this program, for instance.
    """
    return _Unpickler(io.BytesIO(content)).load()


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        match obj:
            case enum.Enum():
                # Python 3.11 has had two ways of its own, one of which asks for getattr.
                return type(obj), (obj.value,)
            case x509.Certificate():
                return _certificate, (obj.public_bytes(Encoding.DER),)
            case x509.CertificateRevocationList():
                return _crl, (obj.public_bytes(Encoding.DER),)
            case key if isinstance(key, PrivateKey):
                return _private_key, (
                    key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
                )
        return NotImplemented


def _certificate(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def _crl(der: bytes) -> x509.CertificateRevocationList:
    return x509.load_der_x509_crl(der)


def _private_key(der: bytes) -> PrivateKey:
    key = load_der_private_key(der, None)
    assert isinstance(key, PrivateKey)
    return key


_MADE_BY = (_certificate, _crl, _private_key)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # With a dot in its name, a thing would be looked for in whatever our modules import.
        if module.startswith("x509proxy.") and "." not in name:
            found = super().find_class(module, name)
            if found in _MADE_BY or (
                isinstance(found, type) and found.__module__.startswith("x509proxy.")
            ):
                return found
        raise pickle.UnpicklingError(
            f"found {module}.{name}, expected none but classes of x509proxy"
        )
