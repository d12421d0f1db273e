"""Tests of :mod:`x509proxy.certificates.config_files`."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.files import FileTestCase
from x509proxy.certificates.config_files import (
    ConfigFile,
    FileContents,
    RecordedFiles,
    Recorder,
    read_file,
    read_line,
)
from x509proxy.settings import SettingsError

OTHER_USER = 4711


class FilesTestCase(SynchronousTestCase):
    """A folder for each test."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)

    def write(self, data: bytes, mode: int = 0o600) -> str:
        path = self.folder / "file.pem"
        path.write_bytes(data)
        path.chmod(mode)
        return str(path)

    def become_nobody(self) -> None:
        """Root may read anything, so that it has to be another user for a while."""
        if os.geteuid() == 0:
            os.seteuid(65534)
            self.addCleanup(os.seteuid, 0)

    def sentence(self, path: str, what: str = "ca") -> str:
        """Return the error sentence for a file, which is one line."""
        error = self.assertRaises(SettingsError, ConfigFile.read, path, what)
        self.assertNotIn("\n", str(error))
        return str(error)


class Reading(FilesTestCase):
    def test_bytes_and_facts(self) -> None:
        """Bytes, mode and owner are those of the same file, and the user is that of the process."""
        source = ConfigFile.read(self.write(b"secret", 0o640), "ca")
        self.assertEqual(
            (b"secret", 0o640, os.geteuid(), os.geteuid()),
            (source.data, source.mode, source.owner, source.user),
        )

    def test_repr(self) -> None:
        """The bytes of a file do not show in a traceback."""
        path = self.write(b"hush")
        recorder = Recorder()
        found = ConfigFile.read(path, "ca", read=recorder.read)
        shown = (found, read_file(path, 9), recorder.files, recorder)
        self.assertNotIn("hush", repr(shown))
        self.assertIn("4 bytes, mode 0600", repr(read_file(path, 9)))

    def test_missing(self) -> None:
        """A missing file is reported with its key and the system's reason."""
        path = str(self.folder / "none.pem")
        self.assertEqual(
            f"private-key: {path}: found a file that cannot be read: No such file or directory"
            ", expected one that this user can read",
            self.sentence(path, "private-key"),
        )

    def test_folder(self) -> None:
        """A folder is rejected."""
        self.assertEqual(
            f"ca: {self.folder}: found a file that cannot be read: Is a directory"
            ", expected one that this user can read",
            self.sentence(str(self.folder)),
        )

    def test_forbidden(self) -> None:
        """A file that the process may not read is reported with the system's reason."""
        path = self.write(b"", 0)
        self.become_nobody()
        self.assertEqual(
            f"ca: {path}: found a file that cannot be read: Permission denied"
            ", expected one that this user can read",
            self.sentence(path),
        )

    def test_impossible_path(self) -> None:
        """A path that no file can have is an error like any other."""
        self.assertIn("cannot be read: Invalid path", self.sentence("a\0b"))

    def test_pipe(self) -> None:
        """A pipe without a writer does not block: a reload would stop the proxy."""
        path = str(self.folder / "pipe")
        os.mkfifo(path, 0o600)
        self.assertIn("found a pipe or a device, expected a regular file", self.sentence(path))

    def test_endless(self) -> None:
        """Devices and files that are too large are rejected."""
        self.assertIn("ca: /dev/zero: found a pipe or a device", self.sentence("/dev/zero"))
        path = self.write(b"")
        os.truncate(path, (4 << 20) + 1)
        self.assertIn("found more than 4194304 bytes, expected a smaller file", self.sentence(path))

    def test_lines(self) -> None:
        """Empty lines are dropped, and every octet is one character."""
        self.assertEqual(["a", "\xff"], ConfigFile.read(self.write(b"a\n\n\xff\n"), "ca").lines())


class Private(FilesTestCase):
    def test_swapped(self) -> None:
        """The check is about the file that was read, even if the path leads elsewhere by then."""
        source = ConfigFile.read(self.write(b"old", 0o644), "private-key")
        self.write(b"new", 0o600)
        error = self.assertRaises(SettingsError, source.require_private)
        self.assertIn("mode 0644", str(error))

    def test_root_owned(self) -> None:
        """A file of root is as good as one of the user's own."""
        ConfigFile("private-key: x", b"", 0o400, 0, user=1).require_private()

    def test_other_owner(self) -> None:
        """A file of another user is rejected, also by a check in another process."""
        theirs = ConfigFile("k: x", b"", 0o400, OTHER_USER, user=1)
        self.patch(os, "geteuid", lambda: OTHER_USER)
        error = self.assertRaises(SettingsError, theirs.require_private)
        self.assertEqual(
            f"k: x: found a file of user {OTHER_USER}, expected one of user 1 or of root",
            str(error),
        )
        ConfigFile("k: x", b"", 0o400, 1, user=1).require_private()
        error = self.assertRaises(
            SettingsError, ConfigFile("k: x", b"", 0o400, OTHER_USER, user=0).require_private
        )
        self.assertTrue(str(error).endswith("expected one of root"), error)

    def test_credential_of_systemd(self) -> None:
        """LoadCredential= shows mode 0440 of root and root's group.

        Nothing near that is accepted.
        """
        ConfigFile("k: x", b"", 0o440, 0, 0).require_private()
        for mode, owner, group in ((0o440, 0, 1), (0o440, 1, 0), (0o444, 0, 0), (0o640, 0, 0)):
            self.assertRaises(
                SettingsError, ConfigFile("k: x", b"", mode, owner, group).require_private
            )

    def test_modes(self) -> None:
        """Any permission for group or others is one too many."""
        for mode in (0o640, 0o604, 0o620, 0o602, 0o777):
            error = self.assertRaises(
                SettingsError, ConfigFile("k: x", b"", mode, 0).require_private
            )
            self.assertIn(f"k: x: found mode {mode:04o}, expected 0600", str(error))


class Recording(FilesTestCase):
    def test_once(self) -> None:
        """A file that changes between two keys is the same for both, with its first mode."""
        recorder = Recorder()
        path = self.write(b"first", 0o640)
        recorder.read(path, 9)
        self.write(b"second", 0o600)
        found = ConfigFile.read(path, "ca", read=recorder.read)
        self.assertEqual((b"first", 0o640), (found.data, found.mode))

    def test_limits(self) -> None:
        """A file beyond one key's limit is whole for another, and a kept one still has limits."""
        recorder = Recorder()
        path = self.write(b"0123456789")
        self.assertEqual(b"01234", recorder.read(path, 4).data)
        self.assertEqual(b"0123456789", recorder.read(path, 10).data)
        error = self.assertRaises(SettingsError, ConfigFile.read, path, "ca", 4, recorder.read)
        self.assertIn("found more than 4 bytes", str(error))

    def test_recorded(self) -> None:
        """Recorded files are read without the disk, with the facts of their first reading."""
        recorder = Recorder(lambda *_: FileContents(b"x", 0o400, OTHER_USER, 1, OTHER_USER))
        recorder.read("/nowhere", 9)
        files = recorder.files
        recorder.read("/later", 9)
        found = ConfigFile.read("/nowhere", "private-key", read=files.read)
        found.require_private()
        self.assertEqual((b"x", 0o400), (found.data, found.mode))

    def test_not_recorded(self) -> None:
        """A file of the disk that is not among the recorded ones cannot be read."""
        path = self.write(b"x")
        error = self.assertRaises(
            SettingsError, ConfigFile.read, path, "ca", read=RecordedFiles().read
        )
        self.assertEqual(
            f"ca: {path}: found a file that cannot be read: Not among the files of the parent"
            ", expected one that this user can read",
            str(error),
        )


class ReadLineTests(FileTestCase):
    def test_one(self) -> None:
        """A secret is the one line of a private file."""
        self.assertEqual("s3cret", read_line(self.write("s3cret\n"), "tokens.client-secret-file"))

    def test_lines(self) -> None:
        """No line, or several, is an error that repeats none of them."""
        for text, found in (("", "no"), ("one\ntwo\n", "2")):
            error = self.assertRaises(SettingsError, read_line, self.write(text), "key")
            self.assert_sentence(error, f"found {found} lines, expected one")
            self.assertNotIn("two", str(error))

    def test_open(self) -> None:
        """A file that others can read is an error."""
        path = self.write("s3cret\n", 0o644)
        error = self.assertRaises(SettingsError, read_line, path, "key")
        self.assert_sentence(error, "0644")
