"""Promises of :mod:`x509proxy.config.credentials`."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.names import NAME
from x509proxy.config import credentials
from x509proxy.config.credentials import as_in_unit
from x509proxy.settings import ProxySettings

ROOT = Path(__file__).parents[3]


class Originals(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.units = [self.folder / name for name in ("etc", "lib")]
        self.running = self.folder / "run"
        for folder in (*self.units, self.running):
            folder.mkdir(parents=True)
        self.patch(credentials, "_UNITS", tuple(self.units))
        self.patch(credentials, "_CREDENTIALS", self.running)

    def unit(self, text: str, at: int = 0, name: str = "a.service") -> str:
        path = self.units[at] / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    def settings(self, *names: str) -> ProxySettings:
        paths = [str(self.running / "a.service" / name) for name in names]
        return ProxySettings(private_key=paths[0], crl=tuple(paths[1:]), certificate="/c.pem")

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

    def test_running(self) -> None:
        """A copy that can be read is what the unit sees."""
        (self.running / "a.service").mkdir()
        (self.running / "a.service" / "key").write_text("")
        self.unit("[Service]\nLoadCredential=key:/etc/a/key.pem\n")
        self.assertEqual((self.settings("key"), ()), as_in_unit(self.settings("key")))

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
        path = str(ROOT / "contrib" / "x509proxy.service")
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
