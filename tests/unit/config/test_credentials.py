"""Tests of :mod:`x509proxy.config.credentials`."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from tests.support.names import NAME
from x509proxy.config import credentials, systemd_units
from x509proxy.config.credentials import (
    CredentialCopies,
    as_in_unit,
    original_files,
    outdated_copies,
)
from x509proxy.settings import ProxySettings, SettingsError


class UnitTestCase(SynchronousTestCase):
    """Folders in place of systemd's, with a unit ``a.service``."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.units = [self.folder / name for name in ("etc", "lib")]
        self.running = self.folder / "run"
        for folder in (*self.units, self.running):
            folder.mkdir(parents=True)
        self.patch(systemd_units, "UNITS", tuple(self.units))
        self.patch(credentials, "_CREDENTIALS", self.running)
        self.be_inside("")

    def be_inside(self, folder: Path | str) -> None:
        """Set the variable that systemd gives to the processes of a unit."""
        environment = patch.dict(os.environ, {"CREDENTIALS_DIRECTORY": str(folder)})
        environment.start()
        self.addCleanup(environment.stop)

    def unit(self, text: str, at: int = 0, name: str = "a.service") -> str:
        path = self.units[at] / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    def settings(self, *names: str) -> ProxySettings:
        paths = [str(self.running / "a.service" / name) for name in names]
        return ProxySettings(private_key=paths[0], crl=tuple(paths[1:]), certificate="/c.pem")

    def copy(self, name: str, content: str) -> Path:
        """Make a copy as systemd does; return the file in its folder."""
        path = self.running / "a.service" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        return path


class Originals(UnitTestCase):
    def sentence(self, name: str = "key", unit: str | None = None) -> str:
        settings, [sentence] = as_in_unit(self.settings(name), unit)
        self.assertEqual(self.settings(name), settings)
        return sentence.replace(str(self.running), "RUN")

    def test_mapped(self) -> None:
        """The files that systemd copies stand in for the copies; other files stay."""
        self.unit("[Service]\nLoadCredential=key:/etc/a/key.pem\n LoadCredential = one:/b/1.crl \n")
        found, sentences = as_in_unit(self.settings("key", "one"))
        self.assertEqual(
            ("/etc/a/key.pem", ("/b/1.crl",), "/c.pem"),
            (found.private_key, found.crl, found.certificate),
        )
        self.assertEqual((), sentences)

    def test_inside(self) -> None:
        """Inside of the unit, the copy is what a start reads."""
        copy = self.copy("key", "")
        self.unit("[Service]\nLoadCredential=key:/etc/a/key.pem\n")
        self.be_inside(copy.parent)
        self.assertEqual((self.settings("key"), ()), as_in_unit(self.settings("key")))

    def test_running(self) -> None:
        """While the unit runs, root can read the copies; the next start reads the originals."""
        self.copy("key", "old")
        self.unit("[Service]\nLoadCredential=key:/etc/a/key.pem\n")
        found, sentences = as_in_unit(self.settings("key"))
        self.assertEqual(("/etc/a/key.pem", ()), (found.private_key, sentences))

    def test_running_without_original(self) -> None:
        """A copy whose original only systemd can read is checked in its place."""
        self.copy("key", "")
        self.unit("[Service]\nSetCredential=key:secret\n")
        self.assertEqual((self.settings("key"), ()), as_in_unit(self.settings("key")))

    def test_elsewhere(self) -> None:
        """A service manager of a user has another folder, which the variable names."""
        folder = self.folder / "user"
        self.be_inside(folder / "b.service")
        self.unit("[Service]\nLoadCredential=key:/etc/a/key.pem\n")
        settings = ProxySettings(private_key=str(folder / "a.service" / "key"))
        self.assertEqual("/etc/a/key.pem", as_in_unit(settings)[0].private_key)

    def test_drop_ins(self) -> None:
        """Drop-ins add to the unit in order; an empty value resets; the first file wins."""
        self.unit("[Service]\nLoadCredential=key:/never\n", at=1)
        self.unit("[Service]\nLoadCredential=\\\nkey:/first\n")
        self.assertEqual("/first", as_in_unit(self.settings("key"))[0].private_key)
        self.unit(
            "[Service]\nLoadCredential=\nLoadCredential=key:/third\n", name="a.service.d/20.conf"
        )
        self.unit("[Service]\nLoadCredential=key:/second\n", at=1, name="a.service.d/10.conf")
        self.assertEqual("/third", as_in_unit(self.settings("key"))[0].private_key)

    def test_named_unit(self) -> None:
        """A unit that is not installed is named."""
        text = (
            "[Service]\nLoadCredential=server.key:/etc/x509proxy/server.key\n"
            "LoadCredential=header.txt:/etc/x509proxy/header.txt\n"
        )
        path = self.unit(text, name="other.service")
        self.patch(credentials, "_CREDENTIALS", Path("/run/credentials"))
        settings = ProxySettings(
            private_key="/run/credentials/x509proxy.service/server.key",
            header_file="/run/credentials/x509proxy.service/header.txt",
        )
        found, sentences = as_in_unit(settings, path)
        self.assertEqual(
            ("/etc/x509proxy/server.key", "/etc/x509proxy/header.txt", ()),
            (found.private_key, found.header_file, sentences),
        )

    def test_sentences(self) -> None:
        """A credential that systemd alone could read, or would not load, has its sentence."""
        begin = "private-key: RUN/a.service/key: found "
        self.assertEqual(
            f"{begin}no unit a.service, expected an installed one, or --unit FILE", self.sentence()
        )
        self.unit("[Service]\nLoadCredential=other:/a\n")
        self.assertEqual(
            f"{begin}no LoadCredential=key:FILE in a.service, expected one", self.sentence()
        )
        for line in (
            "LoadCredentialEncrypted=key:/a", "SetCredential=key:secret",
            "SetCredentialEncrypted=key:x", "LoadCredential=key",
        ):  # fmt: skip
            self.unit(f"[Service]\n{line}\n")
            sentence = self.sentence()
            self.assertIn(f"{begin}a credential that systemd decrypts or holds itself, ", sentence)
            self.assertNotIn("secret", sentence)
        self.assertIn(
            f"{begin}a unit that cannot be read: No such file or directory",
            self.sentence(unit="/nowhere/a.service"),
        )

    def test_silent(self) -> None:
        """A secret name in the place of a file's is not repeated."""
        self.assertNotIn(NAME, self.sentence(NAME))


class Copies(UnitTestCase):
    """A unit that loads a key, and whose process has read the copy."""

    def setUp(self) -> None:
        super().setUp()
        self.original = self.folder / "key.pem"
        self.original.write_text("first")
        self.made = self.copy("key", "first")
        self.unit(f"[Service]\nLoadCredential=key:{self.original}\n")
        self.read = CredentialCopies.of(self.settings("key"))

    def since(self, *names: str) -> str:
        """Compare as a reload does; return the sentence about what may be outdated."""
        settings = self.settings(*(names or ("key",)))
        self.read, sentence = CredentialCopies.of(settings).since(self.read)
        return sentence

    def test_unchanged(self) -> None:
        """An original that is as it was needs no restart."""
        self.assertEqual(["", ""], [self.since(), self.since()])

    def test_changed(self) -> None:
        """A changed original makes each reload fail, until the copy is another one."""
        self.original.write_text("second")
        for _ in range(2):
            error = self.assertRaises(SettingsError, self.since)
            self.assertEqual(
                "private-key: found a change that needs a restart, "
                "since systemd copies credentials "
                "at the start only; nothing of what is new is used",
                str(error),
            )

    def test_refreshed(self) -> None:
        """A copy that systemd has replaced is new, as from systemd 260 on (RefreshOnReload=)."""
        self.original.write_text("second")
        self.made.unlink()
        self.copy("key", "second")
        self.assertEqual(["", ""], [self.since(), self.since()])
        self.original.write_text("a third one")
        self.assertRaises(SettingsError, self.since)

    def test_doubtful(self) -> None:
        """An original that cannot be examined, now or at the start, has a sentence with its key."""
        sentence = (
            "private-key: restart needed if changed, "
            "since systemd copies credentials at the start only"
        )
        self.unit("[Service]\nSetCredential=key:secret\n")
        self.assertEqual(sentence, self.since())
        self.read = CredentialCopies.of(self.settings("key"))
        self.unit(f"[Service]\nLoadCredential=key:{self.original}\n")
        self.assertEqual([sentence, sentence], [self.since(), self.since()])

    def test_written_after_the_copy(self) -> None:
        """An original that is newer than the copy at the first look may be another one."""
        self.original.write_text("second")
        made = self.made.stat()
        os.utime(self.original, ns=(made.st_atime_ns, made.st_mtime_ns + 1))
        self.read = CredentialCopies.of(self.settings("key"))
        self.assertIn("restart needed if changed", self.since())

    def test_named_later(self) -> None:
        """A copy that a new configuration names was made at the start too."""
        self.copy("other", "crl")
        self.unit(f"LoadCredential=key:{self.original}\nLoadCredential=other:{self.original}\n")
        for _ in range(2):
            self.assertEqual(
                "crl[0]: restart needed if changed, "
                "since systemd copies credentials at the start only",
                self.since("key", "other"),
            )

    def test_no_credentials(self) -> None:
        """Files that are none of systemd's are not compared."""
        settings = ProxySettings(private_key=str(self.original), certificate="/c.pem")
        read = CredentialCopies.of(settings)
        self.original.write_text("second")
        self.assertEqual("", CredentialCopies.of(settings).since(read)[1])
        self.assertEqual([], [*original_files(settings)])

    def test_originals(self) -> None:
        """The originals that the unit names are files to look at."""
        self.copy("other", "crl")
        found = [*original_files(self.settings("key", "other"))]
        self.assertEqual([str(self.original)], found)

    def test_outdated(self) -> None:
        """A check names a copy of the running unit that differs from its original."""
        self.assertEqual([], [*outdated_copies(self.settings("key"))])
        self.original.write_text("second")
        self.assertEqual(
            [
                f"private-key: restart needed: the service runs with a copy of {self.original} "
                "that systemd made before its last change"
            ],
            [*outdated_copies(self.settings("key", "other"))],
        )
        self.original.unlink()
        self.assertEqual([], [*outdated_copies(self.settings("key"))])
