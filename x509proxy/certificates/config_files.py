"""Files that the configuration names, read once, with the facts that decide whether they are private.

Everything that loads a configuration takes a :data:`FileReader`. The default one reads the disk.
Workers get a :class:`RecordedFiles` instead: the contents that their parent has read. So parent and
workers cannot see different files, and a worker needs no right to read a key.

Facts
-----
* A path can lead to another file a moment later. A file is opened once, and its mode, its owner and
  its bytes are taken from that descriptor.
* Opening a pipe blocks until another process opens it for writing: without ``O_NONBLOCK``, a reload
  would stop the proxy.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping

import attrs
import msgspec

from x509proxy.redaction import without_secrets
from x509proxy.settings import SettingsError

__all__ = ["ConfigFile", "FileContents", "FileReader", "RecordedFiles", "Recorder", "read_file"]

_LARGEST = 4 << 20  # bytes; the bundle of all public authorities has 0.3 MiB


class FileContents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bytes of a regular file, its mode and owner, and the user whose process read it."""

    data: bytes
    mode: int
    owner: int
    group: int
    user: int

    def __repr__(self) -> str:
        """Leave the bytes out, which may be a private key."""
        return f"<FileContents: {len(self.data)} bytes, mode {self.mode:04o}>"


FileReader = Callable[[str, int], FileContents]
"""A function of a path and a number of bytes; it returns one byte more if there are more.

It raises OSError, or ValueError for a path with NUL in it.
"""


class IrregularFileError(OSError):
    """A pipe, a device or a folder in place of a file."""


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def read_file(path: str, largest: int) -> FileContents:
    """Read a file from the disk (:data:`FileReader`)."""
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise IrregularFileError
        mode = stat.S_IMODE(status.st_mode)
        data = file.read(largest + 1)
    return FileContents(data, mode, status.st_uid, status.st_gid, os.geteuid())


@attrs.frozen
class RecordedFiles:
    """Files that another process, or an earlier reading, has read."""

    contents: Mapping[str, FileContents] = attrs.field(factory=dict, repr=False)

    def read(self, path: str, largest: int) -> FileContents:
        """Return a recorded file (:data:`FileReader`); the disk is not looked at."""
        try:
            return self.contents[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "Not among the files of the parent") from None


class Recorder:
    """A reader that reads each file once and keeps what it found.

    A file that two keys name is the same for both, even if it changes in between.
    """

    def __init__(self, read: FileReader = read_file) -> None:
        self._read = read
        self._contents: dict[str, FileContents] = {}

    @property
    def files(self) -> RecordedFiles:
        """Return everything that was read so far."""
        return RecordedFiles(dict(self._contents))

    def read(self, path: str, largest: int) -> FileContents:
        """Read a file, or return it as it was (:data:`FileReader`)."""
        found = self._contents.get(path)
        if found is None:
            found = self._read(path, largest)
            if len(found.data) <= largest:
                # One that is cut off may be whole for another key, with a higher limit.
                self._contents[path] = found
        return found


@attrs.frozen
class ConfigFile:
    """One file that a key names. ``where``: key and path, for error sentences.

    ``mode``, ``owner``, ``group``: of this very file; ``user``: the one whose process read it.
    """

    where: str
    data: bytes = attrs.field(repr=False)
    mode: int
    owner: int
    group: int = -1
    user: int = attrs.field(factory=os.geteuid)

    @classmethod
    def read(
        cls, path: str, what: str, largest: int = _LARGEST, read: FileReader = read_file
    ) -> ConfigFile:
        """Read the file that the key ``what`` names, of at most ``largest`` bytes.

        :raises SettingsError: it cannot be read, or is larger than any file with that purpose.
        """
        where = f"{what}: {without_secrets(path)}"
        try:
            found = read(path, largest)
        except IrregularFileError:
            raise SettingsError(
                f"{where}: found a pipe or a device, expected a regular file"
            ) from None
        except (OSError, ValueError) as error:
            # ValueError: a path with NUL in it, which never reaches the system.
            reason = error.strerror if isinstance(error, OSError) else "Invalid path"
            raise SettingsError(f"{where}: cannot be read: {reason}") from None
        if len(found.data) > largest:
            raise SettingsError(
                f"{where}: found more than {largest} bytes, expected a text file of {what}"
            )
        return cls(where, found.data, found.mode, found.owner, found.group, found.user)

    def lines(self) -> list[str]:
        """Return the lines that are not empty, each octet as one character."""
        return [line.decode("latin-1") for line in self.data.splitlines() if line]

    def require_private(self) -> None:
        """Check the mode and the owner of a file that holds a secret.

        :raises SettingsError: group or others have any right, or it belongs to another user.
        """
        # 0440 of root and root's group is the mode that LoadCredential= of systemd shows
        # through the mask of its access list.
        if self.mode & 0o077 and (self.mode, self.owner, self.group) != (0o440, 0, 0):
            raise SettingsError(
                f"{self.where}: found mode {self.mode:04o}, expected 0600: nothing for group and others"
            )
        if self.owner not in (0, self.user):
            raise SettingsError(
                f"{self.where}: found a file of user {self.owner}, "
                f"expected one of user {self.user} or of root"
            )
