"""Files that the configuration names, read once, with their mode and owner.

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

__all__ = [
    "ConfigFile",
    "FileContents",
    "FileReader",
    "RecordedFiles",
    "Recorder",
    "read_file",
    "read_line",
]

_MAX_BYTES = 4 << 20  # the bundle of all public authorities has 0.3 MiB


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


def read_file(path: str, max_bytes: int) -> FileContents:
    """Read a file from the disk (:data:`FileReader`)."""
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise IrregularFileError
        mode = stat.S_IMODE(status.st_mode)
        data = file.read(max_bytes + 1)
    return FileContents(data, mode, status.st_uid, status.st_gid, os.geteuid())


@attrs.frozen
class RecordedFiles:
    """Contents of files that another process, or a :class:`Recorder`, has read."""

    contents: Mapping[str, FileContents] = attrs.field(factory=dict, repr=False)

    def read(self, path: str, max_bytes: int) -> FileContents:
        """Return a recorded file (:data:`FileReader`) without access to the disk."""
        try:
            return self.contents[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "Not among the files of the parent") from None


class Recorder:
    """A reader that reads each file once and keeps its contents.

    If two keys name a file, both get the same contents, even if the file changes in between.
    """

    def __init__(self, read: FileReader = read_file) -> None:
        self._read = read
        self._contents: dict[str, FileContents] = {}

    @property
    def files(self) -> RecordedFiles:
        """Return the files that were read so far."""
        return RecordedFiles(dict(self._contents))

    def read(self, path: str, max_bytes: int) -> FileContents:
        """Read a file, or return its recorded contents (:data:`FileReader`)."""
        found = self._contents.get(path)
        if found is None:
            found = self._read(path, max_bytes)
            if len(found.data) <= max_bytes:
                # Truncated contents are not kept: another key may have a higher limit.
                self._contents[path] = found
        return found


@attrs.frozen
class ConfigFile:
    """A file that a configuration key names."""

    where: str
    """The key and the redacted path, for error sentences."""
    data: bytes = attrs.field(repr=False)
    mode: int
    owner: int
    group: int = -1
    user: int = attrs.field(factory=os.geteuid)
    """Effective user of the process that read the file."""

    @classmethod
    def read(
        cls, path: str, setting: str, max_bytes: int = _MAX_BYTES, read: FileReader = read_file
    ) -> ConfigFile:
        """Read the file that the key ``setting`` names, of at most ``max_bytes`` bytes.

        :raises SettingsError: the file cannot be read, or is larger.
        """
        where = f"{setting}: {without_secrets(path)}"
        try:
            found = read(path, max_bytes)
        except IrregularFileError:
            raise SettingsError(
                f"{where}: found a pipe or a device, expected a regular file"
            ) from None
        except (OSError, ValueError) as error:
            # ValueError: a path with NUL in it, which never reaches the system.
            reason = error.strerror if isinstance(error, OSError) else "Invalid path"
            raise SettingsError(
                f"{where}: found a file that cannot be read: {reason}, "
                "expected one that this user can read"
            ) from None
        if len(found.data) > max_bytes:
            raise SettingsError(
                f"{where}: found more than {max_bytes} bytes, expected a smaller file"
            )
        return cls(where, found.data, found.mode, found.owner, found.group, found.user)

    def lines(self) -> list[str]:
        """Return the lines that are not empty, each octet as one character."""
        return [line.decode("latin-1") for line in self.data.splitlines() if line]

    def require_private(self) -> None:
        """Check the mode and the owner of a file that holds a secret.

        :raises SettingsError: group or others have any right, or it belongs to another user.
        """
        # 0440 of root and its group is the mode of a file from systemd's LoadCredential=: the group
        # bits show the mask of its access list.
        if self.mode & 0o077 and (self.mode, self.owner, self.group) != (0o440, 0, 0):
            raise SettingsError(
                f"{self.where}: found mode {self.mode:04o}, "
                "expected 0600: no access for group and others"
            )
        if self.owner not in (0, self.user):
            expected = f"user {self.user} or of root" if self.user else "root"
            raise SettingsError(
                f"{self.where}: found a file of user {self.owner}, expected one of {expected}"
            )


def read_line(path: str, setting: str, read: FileReader = read_file) -> str:
    """Read a secret, the only line of a private file that the key ``setting`` names.

    :raises SettingsError: the file cannot be read, is readable by other users, or has not one line.
    """
    source = ConfigFile.read(path, setting, read=read)
    source.require_private()
    lines = source.lines()
    if len(lines) != 1:
        raise SettingsError(f"{source.where}: found {len(lines) or 'no'} lines, expected one")
    return lines[0]
