"""Importing the package: order of the packages, and no reactor as a side effect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import x509proxy
from x509proxy import service

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "x509proxy"
# twisted.web.proxy imports the global reactor: these modules are imported late (twisted #7806).
WITH_REACTOR = frozenset({"x509proxy.resource"})
PURE = (
    "asgi", "wsgi", "forwarded", "settings", "redaction", "exchange",
    "certificates", "http1", "forwarding", "config", "export", "monitoring",
)  # fmt: skip

_PROBE = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
    if sys.argv[1] in sys.modules:
        sys.exit(f"{name} imports {sys.argv[1]}")
"""


def modules() -> list[str]:
    """Return the dotted name of every module of the package."""
    paths = (path.relative_to(ROOT).with_suffix("") for path in sorted(PACKAGE.rglob("*.py")))
    return [".".join(path.parts).removesuffix(".__init__") for path in paths]


def probe(forbidden: str, names: list[str]) -> str:
    """Import modules in a process of their own; return which one brings a module, or ``""``."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, forbidden, *names],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return done.stderr.strip()


class Reactor(SynchronousTestCase):
    def test_not_imported(self) -> None:
        """Importing any module but the listed ones does not install a reactor."""
        others = [name for name in modules() if name not in WITH_REACTOR]
        self.assertGreater(len(others), 50)
        self.assertEqual(
            "", probe("twisted.internet.reactor", [*others, "twisted.plugins.x509proxy_plugin"])
        )

    def test_listed(self) -> None:
        """Each listed module installs a reactor: the list is as short as possible."""
        for name in sorted(WITH_REACTOR):
            self.assertIn(name, probe("twisted.internet.reactor", [name]))


_STATE = """
import importlib, signal, sys, threading, warnings

def state():
    ours = [found for found in warnings.filters if "x509proxy" in str(found[3])]
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    return (ours, sys.excepthook, threading.excepthook, sys.unraisablehook, handlers)

before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
    if state() != before:
        sys.exit(f"{name} changes the state of the process")
"""


class SideEffects(SynchronousTestCase):
    def test_none(self) -> None:
        """Importing any module changes no hook, no warning filter and no signal handler."""
        names = [name for name in modules() if name not in WITH_REACTOR]
        done = subprocess.run(
            [sys.executable, "-c", _STATE, *names, *WITH_REACTOR],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        self.assertEqual((0, ""), (done.returncode, done.stderr))


class Lazy(SynchronousTestCase):
    def test_service(self) -> None:
        """The service package hands on the two names that twistd looks up, and no other."""
        self.assertEqual(
            ["Options", "makeService"],
            [getattr(service, name).__name__ for name in service.__all__],
        )
        with self.assertRaisesRegex(AttributeError, "no attribute 'other'"):
            _ = service.other

    def test_package(self) -> None:
        """The package has its public names, and no other."""
        for name in x509proxy.__all__:
            self.assertTrue(callable(getattr(x509proxy, name)), name)
        with self.assertRaisesRegex(AttributeError, "no attribute 'other'"):
            _ = x509proxy.other


class Twisted(SynchronousTestCase):
    def test_not_in_pure_packages(self) -> None:
        """The pure packages work without Twisted being imported."""
        pure = [name for name in modules() if name.split(".")[1:2] and name.split(".")[1] in PURE]
        self.assertGreater(len(pure), 40)
        self.assertEqual("", probe("twisted", pure))

    def test_no_init(self) -> None:
        """``twisted/`` and its ``plugins/`` have no ``__init__.py``, which would hide Twisted."""
        self.assertEqual([], list((ROOT / "twisted").rglob("__init__.py")))


class Order(SynchronousTestCase):
    def test_contracts(self) -> None:
        """import-linter's contracts in ``.importlinter`` hold."""
        command = Path(sys.executable).with_name("lint-imports")
        if not command.exists():
            raise SkipTest("import-linter is not installed")
        done = subprocess.run(
            [str(command), "--no-cache"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
