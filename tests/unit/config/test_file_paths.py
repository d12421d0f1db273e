"""Tests of :mod:`x509proxy.config.file_paths`: the files that are read, and the log's place."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support.files import FileTestCase
from tests.support.names import NAME
from x509proxy.config.file_paths import (
    check_log_apart,
    check_log_place,
    log_problem,
    named_files,
    stamp,
    with_files,
)
from x509proxy.service.access_log import open_log
from x509proxy.settings import (
    AdminSettings,
    CertificateSettings,
    Format,
    HeaderSettings,
    ProxySettings,
    SettingsError,
    UpstreamSettings,
)


class NamedFiles(SynchronousTestCase):
    def test_all(self) -> None:
        """Every file that is read is named, wherever in the document.

        The one that is written is not.
        """
        settings = ProxySettings(
            certificate="1", private_key="2", header_file="3", ca="4", crl=("5", "6"),
            access_log="no", preset="no",
            headers=(HeaderSettings(format=Format.LITERAL, name_file="7", value_file="8"),),
            certificates=(CertificateSettings(certificate="9", private_key="10"),),
            upstream=UpstreamSettings(ca="11", certificate="12", private_key="13"),
        )  # fmt: skip
        self.assertEqual({str(number) for number in range(1, 14)}, set(named_files(settings)))
        self.assertEqual([], list(named_files(ProxySettings())))


class Apart(FileTestCase):
    def refusal(self, log: str, config: str | None = None, **read: Any) -> str:
        settings = ProxySettings(access_log=log, **read)
        error: SettingsError = self.assertRaises(SettingsError, check_log_apart, settings, config)
        self.assert_sentence(error)
        return str(error).replace(log, "LOG")

    def test_read_files(self) -> None:
        """The log is no file that is read: its lines would be appended to the private key."""
        key = self.write("key", name="server.key")
        found = "access-log: LOG: found the file of private-key, expected one of its own"
        self.assertEqual(found, self.refusal(key, private_key=key))
        settings = ProxySettings(
            access_log=key, certificates=(CertificateSettings(certificate="none", private_key=key),)
        )
        error = self.assertRaises(SettingsError, check_log_apart, settings, None)
        self.assertIn("found the file of certificates[0].private-key", str(error))

    def test_configuration(self) -> None:
        """Nor is it the configuration itself."""
        path = self.write("a = 1")
        self.assertIn("found the file of the configuration, expected", self.refusal(path, path))

    def test_other_names(self) -> None:
        """A link, soft or hard, or a detour does not hide a file."""
        key = self.write("key", name="server.key")
        soft, hard = self.folder / "soft.log", self.folder / "hard.log"
        soft.symlink_to("server.key")
        hard.hardlink_to(key)
        for log in (str(soft), str(hard), f"{self.folder}/../{self.folder.name}/server.key"):
            self.assertIn("found the file of header-file", self.refusal(log, header_file=key))

    def test_silent(self) -> None:
        """The secret name in the file's name is not shown."""
        path = self.write("key", name=f"{NAME}.log")
        error = self.assertRaises(
            SettingsError, check_log_apart, ProxySettings(access_log=path, ca=path), None
        )
        self.assertNotIn(NAME, str(error))

    def test_of_its_own(self) -> None:
        """A file of its own is good, there or not; so is standard output, and none at all."""
        key = self.write("key", name="server.key")
        for log in (
            None,
            "-",
            self.write("", name="access.log"),
            str(self.folder / "new.log"),
            "a\0b",
        ):
            check_log_apart(ProxySettings(access_log=log, private_key=key), key)
        check_log_apart(ProxySettings(access_log=key), None)


class LogPlace(FileTestCase):
    def refusal(self, path: str) -> str:
        error: SettingsError = self.assertRaises(
            SettingsError, check_log_place, ProxySettings(access_log=path)
        )
        self.assert_sentence(error)
        return str(error).replace(str(self.folder), "FOLDER")

    def test_good(self) -> None:
        """A file that can be opened is good, and the check does not create it."""
        for path in (
            None,
            "-",
            "/dev/full",
            self.write("", name="old.log"),
            str(self.folder / "new.log"),
        ):
            check_log_place(ProxySettings(access_log=path))
        self.assertFalse((self.folder / "new.log").exists())

    def test_folders(self) -> None:
        """Its folder has to be there, and it has to be none."""
        expected = "expected a file that can be written"
        self.assertEqual(
            f"access-log: FOLDER: found a folder, {expected}", self.refusal(str(self.folder))
        )
        self.assertEqual(
            f"access-log: FOLDER/no/a.log: found no folder FOLDER/no, {expected}",
            self.refusal(str(self.folder / "no" / "a.log")),
        )
        self.assertEqual(
            f"access-log: a\\x00b/c: found NUL in its name, {expected}", self.refusal("a\0b/c")
        )
        self.assertNotIn(NAME, self.refusal(f"/nowhere/{NAME}/access.log"))

    def test_kinds(self) -> None:
        """A pipe without a reader, a socket, or a loop of links is no log.

        Nor is the listener's own socket.
        """
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        pipe, loop = folder / "pipe", folder / "loop"
        os.mkfifo(pipe)
        loop.symlink_to(loop)
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(str(folder / "socket"))
        for name, kind in (("pipe", "a pipe"), ("socket", "a socket"), ("loop", "a loop of links")):
            path = str(folder / name)
            sentence = f"access-log: {path}: found {kind}, expected a file that can be written"
            self.assertEqual(sentence, self.refusal(path))
            self.assertEqual(kind, log_problem(path))
            self.assertEqual(sentence, str(self.assertRaises(SettingsError, open_log, path)))

    def test_dangling(self) -> None:
        """A link without a file becomes the file, if its folder exists, in a check too."""
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        good, bad = folder / "good", folder / "bad"
        good.symlink_to("new.log")
        bad.symlink_to("nowhere/new.log")
        check_log_place(ProxySettings(access_log=str(good)))
        found = f"found no folder {folder}/nowhere"
        self.assertIn(found, self.refusal(str(bad)))
        self.assertIn(found, str(self.assertRaises(SettingsError, open_log, str(bad))))
        log = open_log(str(good))
        assert log is not None
        log.close()
        self.assertTrue((folder / "new.log").exists())

    def test_own_socket(self) -> None:
        """A socket that the proxy listens at is none of its logs."""
        admin = AdminSettings(listen="unix:/run/admin.sock:mode=660")
        for path, key in (("/run/a.sock", "listen"), ("/run/../run/admin.sock", "admin.listen")):
            settings = ProxySettings(listen=("unix:/run/a.sock",), admin=admin, access_log=path)
            error = self.assertRaises(SettingsError, check_log_apart, settings, None)
            self.assertIn(f"found the file of {key}, expected one of its own", str(error))
        check_log_apart(ProxySettings(listen=("unix:",), access_log="/a"), None)

    def test_rights(self) -> None:
        """The user who checks needs the right to write there."""
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        path = self.write("", 0o444, "old.log")
        self.folder.chmod(0o555)
        self.become_nobody()
        self.assertIn("old.log: found no right to write it, expected", self.refusal(path))
        self.assertIn(
            "new.log: found no right to write to its folder, expected",
            self.refusal(str(self.folder / "new.log")),
        )


class Changed(SynchronousTestCase):
    def test_each_file(self) -> None:
        """The name of each file is changed, in each table, and standard output is not a file."""
        settings = ProxySettings(
            certificate="1",
            crl=("2", "3"),
            access_log="log",
            headers=(HeaderSettings(format=Format.LITERAL, name_file="4", value_file="5"),),
            upstream=UpstreamSettings(ca="6"),
        )
        found = with_files(settings, lambda path: f"/etc/{path}")
        expected = {f"/etc/{number}" for number in range(1, 7)}
        self.assertEqual(expected, set(named_files(found)))
        self.assertEqual("/etc/log", found.access_log)
        plain = with_files(ProxySettings(access_log="-"), lambda path: f"/etc/{path}")
        self.assertEqual(ProxySettings(access_log="-"), plain)


class Stamps(FileTestCase):
    def test_changes(self) -> None:
        """A file's stamp is the same until its content changes, or another file has its name."""
        path = self.write("a", name="a.pem")
        before = stamp(path)
        self.assertIsNotNone(before)
        self.assertEqual(before, stamp(path))
        self.write("longer", name="a.pem")
        self.assertNotEqual(before, stamp(path))
        other = self.write("a", name="b.pem")
        self.assertNotEqual(stamp(path), stamp(other))

    def test_none(self) -> None:
        """A missing file, or an impossible name, has no stamp."""
        self.assertIsNone(stamp("/nowhere/a"))
        self.assertIsNone(stamp("a\0b"))
