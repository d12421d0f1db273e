"""The laws of the house: which rooms there are, who may import whom, and where Twisted and its reactor may be found."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "x509proxy"
PLUGIN = ROOT / "twisted" / "plugins" / "x509proxy_plugin.py"

# From the ground up, and on each floor in the order of a first reading. A room that is only planned need not exist.
PLAN: dict[str, tuple[str, ...]] = {
    "ground": (
        "secrecy", "words", "settings", "document", "origin", "address", "certificate", "exchange", "refusal", "selfsigned",
    ),
    "first": (
        "encoding", "presets", "material", "files", "places", "trusted", "sni", "rules", "target", "requestline", "head",
        "headers", "knownheads", "message", "reader", "records", "proxyheader", "answers", "routes", "policy", "discovery",
        "requestids", "accesslog", "notify", "reasons", "metrics", "snapshot", "fleet", "history", "exposition", "figures",
        "markup", "statustiles", "statustables", "statuspage", "loaded", "chains", "mistakes", "advice", "configuration",
        "expiry", "parcel", "collector",
    ),
    "second": (
        "limits", "deadline", "tls", "accepted", "sockets", "sender", "stream", "client", "incoming", "request", "inbox",
        "channel", "factory", "proxied", "backend", "outgoing", "patience", "upstream", "health", "record", "checks", "pool",
        "view", "balance", "rewriting", "forwarding", "transfer",
    ),
    "third": ("site", "resource"),
    "fourth": (
        "endpoint", "echo", "listening", "reloading", "logs", "admin", "running", "workers", "worker", "server",
        "demo", "service", "review", "cli",
    ),
    "garden": ("testing",),
}  # fmt: skip
FLOORS = {room: floor for floor, rooms in enumerate(PLAN.values()) for room in rooms}
WITHOUT_TWISTED = frozenset(PLAN["ground"] + PLAN["first"])
# twisted.web.proxy imports the global reactor: whoever wants another one must come first, so these are imported late.
WITH_REACTOR = frozenset({"resource", "testing", "demo"})
LONGEST = 300
PORCH = "__init__"


def imported(source: str) -> Iterator[str]:
    """Every module that a source imports, wherever in it the import stands; relative ones as if written out."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, ["x509proxy" if node.level else "", node.module]))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "namedAny"):
            yield from (str(argument.value) for argument in node.args if isinstance(argument, ast.Constant))


def neighbours(source: str) -> set[str]:
    """The rooms that a source imports."""
    names = (name.split(".") for name in imported(source))
    return {parts[1] for parts in names if parts[0] == "x509proxy" and len(parts) > 1 and parts[1] in FLOORS}


def upward(room: str, source: str) -> set[str]:
    """The rooms above its own that a room imports."""
    return {other for other in neighbours(source) if FLOORS[other] > FLOORS[room]}


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """A way that leads back to where it began, or nothing."""
    done: set[str] = set()

    def walk(room: str, way: list[str]) -> list[str]:
        if room in way:
            return [*way[way.index(room) :], room]
        if room in done:
            return []
        done.add(room)
        return next(filter(None, (walk(other, [*way, room]) for other in sorted(graph.get(room, ())))), [])

    return next(filter(None, (walk(room, []) for room in sorted(graph))), [])


def rooms() -> dict[str, str]:
    """The rooms that exist, by name, with their sources."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(HOUSE.glob("*.py")) if path.stem != PORCH}


@functools.cache
def brings(statement: str) -> frozenset[str]:
    """Which of Twisted and its reactor are there after a statement, in a process of its own."""
    code = f"{statement}\nimport sys\nprint(*({{'twisted', 'twisted.internet.reactor'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise AssertionError(f"{statement} fails:\n{done.stderr}")
    return frozenset(done.stdout.split())


class Plan(SynchronousTestCase):
    def test_every_room_is_on_it(self) -> None:
        """Every file of the package is on the plan, and there is no room inside a room."""
        self.assertEqual(set(), set(rooms()) - set(FLOORS))
        inside = {path.relative_to(HOUSE).as_posix() for path in HOUSE.rglob("*.py") if path.parent != HOUSE}
        self.assertEqual(set(), inside)

    def test_once(self) -> None:
        """No room is on two floors."""
        self.assertEqual(len(FLOORS), sum(map(len, PLAN.values())))

    def test_size(self) -> None:
        """No room outgrows what can be read at one sitting; what has to leave it gets a name of its own."""
        lengths = {room: source.count("\n") for room, source in rooms().items()}
        self.assertEqual({}, {room: lines for room, lines in lengths.items() if lines > LONGEST})

    def test_no_init_in_twisted(self) -> None:
        """Twisted's name space is Twisted's: an ``__init__.py`` of ours would hide it."""
        self.assertEqual([], list((ROOT / "twisted").rglob("__init__.py")))


class Stairs(SynchronousTestCase):
    def test_nobody_imports_upwards(self) -> None:
        """A room imports from its own floor and those below, and from nowhere above."""
        found = {room: upward(room, source) for room, source in rooms().items() if room in FLOORS}
        self.assertEqual({}, {room: others for room, others in found.items() if others})

    def test_no_circle(self) -> None:
        """No room imports, by whatever way, itself."""
        self.assertEqual([], cycle({room: neighbours(source) for room, source in rooms().items()}))

    def test_the_law_bites(self) -> None:
        """An import upwards is found however it is written: inside a function, relative, of the package, by name."""
        for source in (
            "import x509proxy.resource",
            "from x509proxy.resource import X509ProxyResource",
            "from x509proxy import resource",
            "from . import resource",
            "from .resource import X509ProxyResource",
            "def late():\n    from x509proxy import headers, resource",
            "if TYPE_CHECKING:\n    import x509proxy.resource as other",
            "import importlib\nimportlib.import_module('x509proxy.resource')",
        ):
            self.assertEqual({"resource"}, upward("tls", source), source)
        self.assertEqual(set(), upward("tls", "from x509proxy.certificate import resource\nimport resource"))

    def test_the_circle_is_found(self) -> None:
        """A circle is named whole; a way that only meets itself again is none."""
        self.assertEqual(["b", "c", "b"], cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}))
        self.assertEqual(["a", "a"], cycle({"a": {"a"}}))
        self.assertEqual([], cycle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}))


class Twisted(SynchronousTestCase):
    def test_named(self) -> None:
        """No room on the ground and first floors names Twisted."""
        found = {room: set(imported(source)) for room, source in rooms().items() if room in WITHOUT_TWISTED}
        self.assertEqual([], [room for room, names in found.items() if any(name.split(".")[0] == "twisted" for name in names)])

    def test_brought_along(self) -> None:
        """None brings it along by way of others either."""
        found = [room for room in rooms() if room in WITHOUT_TWISTED and brings(f"import x509proxy.{room}")]
        self.assertEqual([], found)


class Reactor(SynchronousTestCase):
    def test_rooms(self) -> None:
        """Only the rooms that say so cause a reactor to exist: every other can be imported before one is chosen."""
        found = {room for room in rooms() if "twisted.internet.reactor" in brings(f"import x509proxy.{room}")}
        self.assertEqual(set(), found - WITH_REACTOR)

    def test_porch(self) -> None:
        """Importing the package installs none."""
        self.assertNotIn("twisted.internet.reactor", brings("import x509proxy"))

    def test_plugin(self) -> None:
        """The plugin file, which every user of twistd on the machine imports, installs none."""
        self.assertNotIn("twisted.internet.reactor", brings(f"import runpy; runpy.run_path({str(PLUGIN)!r})"))

    def test_the_law_bites(self) -> None:
        """A process that imports ``twisted.web.proxy`` is seen to have a reactor, one that imports nothing to have none."""
        self.assertEqual({"twisted", "twisted.internet.reactor"}, brings("import twisted.web.proxy"))
        self.assertEqual(set(), brings("import json"))
