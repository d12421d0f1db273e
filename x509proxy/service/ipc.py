"""Messages between the parent and its workers, and the frames that carry them over two pipes.

A frame is a length of four bytes, big-endian, and then JSON, in both directions. The messages are
typed: decoding checks every field, and an unknown field or type of message is an error.

The parent sends settings and the contents of the files that they name. The worker makes the
configuration from these, with the same loader as the parent
(:func:`x509proxy.config.loader.read_configuration`). Bytes of files are base64 in JSON.

Facts
-----
* A message to a worker has private keys and the secret header name in it. It exists in memory and
  in the pipe alone, and its ``repr`` shows nothing of it.
* A worker is exposed to the network, so its messages are data to the parent, with a lower limit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import ClassVar

import msgspec

from x509proxy.certificates.config_files import FileContents, RecordedFiles
from x509proxy.config.loader import Configuration, read_configuration
from x509proxy.monitoring.snapshot import Snapshot
from x509proxy.monitoring.snapshot_builder import installed_version
from x509proxy.settings import ProxySettings, SettingsError

__all__ = [
    "Alive",
    "Draining",
    "FrameError",
    "Frames",
    "LogLine",
    "NewConfiguration",
    "NotUsed",
    "ParentMessage",
    "ReopenLog",
    "Serving",
    "SnapshotReport",
    "Stop",
    "Task",
    "Used",
    "VersionError",
    "WorkerMessage",
    "decode_parent_message",
    "decode_worker_message",
    "encode_parent_message",
    "encode_worker_message",
    "frame",
]

_LENGTH = struct.Struct("!I")
# Base64 of ten revocation lists of the largest size (x509proxy.certificates.pem_files).
_MAX_FRAME_BYTES = 1 << 28


# Read at import: after an upgrade, a parent that has not been restarted still sends its own
# version.
_VERSION = installed_version()


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base class of messages. Their ``repr`` is the name alone, since they may contain keys."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


# From the parent to a worker.


class NewConfiguration(_Message, frozen=True, tag="new configuration"):
    """A configuration, as settings and the contents of the files that they name, by path."""

    settings: ProxySettings
    files: dict[str, FileContents]

    @classmethod
    def of(cls, configuration: Configuration) -> NewConfiguration:
        """Return the message for a configuration that was loaded with its files kept."""
        return cls(configuration.settings, dict(configuration.files.contents))

    def load(self) -> Configuration:
        """Make the configuration, from these files alone.

        :raises SettingsError: the parent could not have read it.
        """
        return read_configuration(self.settings, RecordedFiles(self.files).read)


class Task(_Message, frozen=True, tag="task"):
    """The first message to a worker: the configuration and its descriptors."""

    configuration: NewConfiguration
    sockets: tuple[tuple[int, int], ...]
    """Descriptor and address family of each socket."""
    access_log: int | None = None
    """Descriptor of the access log."""
    version: str = _VERSION
    """Version of the parent's program, which must be that of the worker."""


class ReopenLog(_Message, frozen=True, tag="reopen log"):
    """A request to continue in the access log's new file."""


class Stop(_Message, frozen=True, tag="stop"):
    """The last message: the pipe is closed by a parent that stops, not by its death."""


ParentMessage = Task | NewConfiguration | ReopenLog | Stop


# From a worker to the parent.


class LogLine(_Message, frozen=True, tag="log"):
    """An event for the parent's log."""

    level: str
    """Name of a ``LogLevel``."""
    namespace: str
    text: str


class SnapshotReport(_Message, frozen=True, tag="snapshot"):
    """The state of a worker."""

    snapshot: Snapshot


class Serving(_Message, frozen=True, tag="serving"):
    """The report that a worker has begun to accept connections."""


class Alive(_Message, frozen=True, tag="alive"):
    """The sign of life of a worker that sends no snapshots."""


class Draining(_Message, frozen=True, tag="draining"):
    """The report that a worker has accepted its last connection."""


class Used(_Message, frozen=True, tag="used"):
    """The report that a worker serves by the new configuration."""


class NotUsed(_Message, frozen=True, tag="not used"):
    """The report that a worker still serves by the old configuration, and the reason."""

    error: str


WorkerMessage = LogLine | SnapshotReport | Serving | Alive | Draining | Used | NotUsed

_from_parent: msgspec.json.Decoder[ParentMessage] = msgspec.json.Decoder(ParentMessage)
_from_worker: msgspec.json.Decoder[WorkerMessage] = msgspec.json.Decoder(WorkerMessage)


class FrameError(ValueError):
    """A frame that is longer than its receiver accepts."""


class VersionError(ValueError):
    """A message that this version of the program cannot decode. Its content is not in the error."""

    SENTENCE: ClassVar[str] = (
        "cannot decode a message from the parent; was x509proxy upgraded without a restart?"
    )

    def __init__(self) -> None:
        super().__init__(self.SENTENCE)


def encode_parent_message(message: ParentMessage) -> bytes:
    """Return a message to a worker as a frame.

    :raises SettingsError: the message is too large, or the settings have text that is not UTF-8.
    """
    try:
        return frame(msgspec.json.encode(message))
    except UnicodeEncodeError:
        # A path from the command line, in another encoding.
        raise SettingsError(
            "workers: found a setting that is not UTF-8, expected UTF-8, which workers are sent"
        ) from None
    except FrameError as error:
        raise SettingsError(f"workers: {error}") from None


def decode_parent_message(content: bytes) -> ParentMessage:
    """Decode a message in a worker.

    :raises VersionError: the message is invalid, or from another version.
    """
    try:
        message = _from_parent.decode(content)
    except (ValueError, RecursionError):
        # ``from None``: the error may quote a value.
        raise VersionError from None
    if isinstance(message, Task) and message.version != _VERSION:
        raise VersionError
    return message


def encode_worker_message(message: WorkerMessage) -> bytes:
    """Return a message to the parent as a frame."""
    return frame(msgspec.json.encode(message))


def decode_worker_message(content: bytes) -> WorkerMessage:
    """Decode a message in the parent.

    :raises ValueError: the message is invalid or of an unknown type.
    """
    try:
        return _from_worker.decode(content)
    except RecursionError:
        raise ValueError("found a message with too many levels, expected a known one") from None


def frame(content: bytes) -> bytes:
    """Return the content as a frame.

    :raises FrameError: it is longer than any receiver accepts.
    """
    if len(content) > _MAX_FRAME_BYTES:
        raise FrameError(
            f"found a message of {len(content)} bytes, expected {_MAX_FRAME_BYTES} or less"
        )
    return _LENGTH.pack(len(content)) + content


class Frames:
    """A parser of frames. ``max_bytes`` limits the content of one frame."""

    def __init__(self, max_bytes: int = _MAX_FRAME_BYTES) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the contents of the frames that are complete now.

        :raises FrameError: a frame is too long.
        """
        self._data += data
        while len(self._data) >= _LENGTH.size:
            [length] = _LENGTH.unpack_from(self._data)
            if length > self._max_bytes:
                raise FrameError(
                    f"found a frame of {length} bytes, expected {self._max_bytes} or less"
                )
            end = _LENGTH.size + length
            if len(self._data) < end:
                return
            content = bytes(self._data[_LENGTH.size : end])
            del self._data[:end]
            yield content
