"""Tests of :mod:`x509proxy.config.systemd_units`."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.config import systemd_units
from x509proxy.config.systemd_units import Service, service_of, unit_files

SHIPPED = Path(__file__).parents[3] / "contrib/x509proxy.service"
CONFIG = "/etc/x509proxy/x509proxy.toml"


class Services(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.patch(systemd_units, "UNITS", (self.folder,))

    def unit(self, text: str, name: str = "x509proxy.service") -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def test_shipped(self) -> None:
        """The shipped unit has a user, and a folder below ``/run``."""
        self.unit(SHIPPED.read_text("ascii"))
        expected = Service("x509proxy.service", "x509proxy", ("/run/x509proxy",))
        self.assertEqual(expected, service_of(CONFIG))

    def test_by_its_configuration(self) -> None:
        """The service is the one whose command names the file, in either form of the option."""
        self.unit("ExecStart=/x --config /a.toml\nUser=a", "x509proxy-a.service")
        self.unit("ExecStart=/x \\\n  --config=/b.toml\nUser=b", "x509proxy-b.service")
        self.unit("ExecStart=/x --config /c.toml", "other.service")
        found = [service_of(f"/{name}.toml") for name in "abc"]
        self.assertEqual(["a", "b", None], [one and one.user for one in found])

    def test_drop_ins(self) -> None:
        """A drop-in replaces the user, adds folders, and takes back what was there."""
        self.unit("ExecStart=/x /a.toml\nUser=a\nRuntimeDirectory=a b:c\n")
        self.unit("User=b\nRuntimeDirectory=d\n", "x509proxy.service.d/1.conf")
        expected = Service("x509proxy.service", "b", ("/run/a", "/run/b", "/run/d"))
        self.assertEqual(expected, service_of("/a.toml"))
        self.unit("User=\nRuntimeDirectory=\n", "x509proxy.service.d/2.conf")
        self.assertEqual(Service("x509proxy.service"), service_of("/a.toml"))

    def test_given(self) -> None:
        """A unit that is not installed can be given, whatever its command is."""
        path = self.unit("ExecStart=/x\nUser=a\n", "other/mine.service")
        self.assertEqual(Service("mine.service", "a"), service_of("/a.toml", str(path)))
        self.assertEqual(Service("none"), service_of("/a.toml", "/nowhere/none"))

    def test_not_installed(self) -> None:
        """A unit that is not installed has no files, not even its drop-ins."""
        self.unit("User=b\n", "x509proxy.service.d/1.conf")
        self.assertEqual([], [*unit_files("x509proxy.service")])
