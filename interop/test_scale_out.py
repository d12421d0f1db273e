"""Three nodes behind HAProxy, each with an address of its own on a wire of its own.

One is killed, one reloads, one drains.

The figures for ``docs/operations/scale-out.rst`` are printed::

    python -m twisted.trial interop.test_scale_out
"""

from __future__ import annotations

import csv
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import attrs
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from interop.crowd import Fate, fates
from interop.spaces import Machine, NetworkStage
from x509proxy.certificates.client_certificate import thumbprint
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.forwarding.secret_name import new_header_name

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "contrib" / "haproxy.cfg"
BALANCER, SERVER, CLIENTS = "198.51.100.1", "198.51.100.20", "198.51.100.30"
# What the back end takes for an answer: so that requests are in flight whenever something ends.
MILLISECONDS = 100
PHASE = 3.0  # seconds of load before an event, and after it
NOTICED = 10.0  # seconds that keep-alive takes, by the recipe, and a few checks
PATIENCE = (
    30.0  # seconds that HAProxy and a node have, on a busy machine, to see each other come or go
)

NODE = """
{listen}
certificate = "server.pem"
private-key = "server.key"
backend = "http://198.51.100.20:8080"
header-file = "header.txt"

[[headers]]
name = "X-Node"
format = "literal"
value = "{name}"

{tables}
"""


@attrs.define
class Node:
    """One of the nodes that the recipe names."""

    name: str
    machine: Machine
    process: subprocess.Popen[bytes]


def toml_of(recipe: str) -> tuple[str, str]:
    """Return the lines of the comment in HAProxy's configuration, for each node."""
    listen, *tables = re.findall(r"^#   (.+)$", recipe, re.MULTILINE)
    return listen, "\n".join(tables)


def nodes_of(recipe: str) -> list[tuple[str, str]]:
    """Return the nodes' names and addresses in HAProxy's configuration."""
    return re.findall(r"^    server (\w+) ([0-9.]+):8443\b", recipe, re.MULTILINE)


class ScaleOutStage(NetworkStage):
    """HAProxy as the recipe has it, the nodes that it names, a back end, and a crowd."""

    timeout = 240

    def setUp(self) -> None:
        super().setUp()
        self.require("haproxy")
        self.balancer, self.server, self.clients = (
            self.machine(name, address)
            for name, address in (("balancer", BALANCER), ("server", SERVER), ("clients", CLIENTS))
        )
        self.old, self.new = (
            make_self_signed(
                KeyKind.EC, f"the {age} one", names=("as.example.com", BALANCER), server=True
            )
            for age in ("old", "new")
        )
        self.rows = self.write("rows.json", "")
        late = self.start_on(
            self.server, "late", python("interop.late", SERVER, "8080", str(MILLISECONDS))
        )
        self.reach(self.clients, SERVER, 8080, late, "late")
        self.secret = new_header_name()
        self.nodes = [
            self.make_node(name, address) for name, address in nodes_of(RECIPE.read_text())
        ]
        self.start_balancer()
        self.wait_until(lambda: len(self.up()) == len(self.nodes), "HAProxy sees all nodes")
        self.start_crowd()

    # What there is.

    def make_node(self, name: str, address: str) -> Node:
        (self.folder / name).mkdir()
        listen, tables = toml_of(RECIPE.read_text())
        self.write(f"{name}/x509proxy.toml", NODE.format(listen=listen, name=name, tables=tables))
        self.write(f"{name}/header.txt", f"{self.secret}\n")
        self.give(name, self.old)
        machine = self.machine(name, address)
        return Node(name, machine, self.start_node(name, machine))

    def give(self, name: str, identity: SelfSigned) -> None:
        """Write the server's certificate and key; a reload or a start takes them up."""
        self.write(f"{name}/server.key", identity.key_pem)
        self.write(f"{name}/server.pem", identity.certificate_pem)

    def start_node(self, name: str, machine: Machine) -> subprocess.Popen[bytes]:
        twistd = str(Path(sys.executable).parent / "twistd")
        command = [
            twistd,
            "-n",
            "--pidfile=",
            "x509proxy",
            "--config",
            f"{self.folder}/{name}/x509proxy.toml",
        ]
        process = self.start_on(machine, name, command)
        self.reach(self.clients, machine.address, 8443, process, name)
        return process

    def start_balancer(self) -> None:
        """Return the configuration as it stands, with a socket that reports the nodes' state."""
        control = self.write(
            "control.cfg", f"global\n    stats socket {self.folder}/control mode 600 level admin\n"
        )
        process = self.start_on(
            self.balancer, "haproxy", ["haproxy", "-db", "-f", str(RECIPE), "-f", str(control)]
        )
        self.reach(self.clients, BALANCER, 443, process, "haproxy")

    def start_crowd(self) -> None:
        client = self.client()
        self.thumbprint = thumbprint(client.made.certificate.public_bytes(Encoding.DER))
        trusted = self.write("trusted.pem", self.old.certificate_pem + self.new.certificate_pem)
        files = [str(path) for path in (trusted, client.certificate, client.key, self.rows)]
        self.crowd = self.start_on(
            self.clients, "crowd", python("interop.crowd", BALANCER, "443", *files)
        )

    # What is seen.

    def tell(self, command: str) -> str:
        """Send HAProxy a command on its socket; return the response."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(10)
            control.connect(f"{self.folder}/control")
            control.sendall(f"{command}\n".encode())
            return control.makefile().read()

    def up(self) -> set[str]:
        """Return the nodes that HAProxy has checked with success."""
        lines = csv.DictReader(self.tell("show stat nodes 4 -1").removeprefix("# ").splitlines())
        return {
            line["svname"]
            for line in lines
            if line["status"] == "UP" and line["check_status"] == "L7OK"
        }

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), end, what)
            time.sleep(0.1)

    def under_load(self) -> None:
        """Let the crowd send requests for a while."""
        time.sleep(PHASE)

    def finish(self) -> list[Fate]:
        """End the crowd; return every request's result."""
        self.crowd.terminate()
        self.assertEqual(0, self.crowd.wait(30), (self.folder / "crowd.log").read_text())
        found = fates(self.rows)
        self.assertEqual(
            {(CLIENTS, self.thumbprint)},
            {(fate.peer, fate.thumbprint) for fate in found if not fate.error},
            "who it was",
        )
        return found

    def is_passed_on(self, node: str, since: float) -> bool:
        return any(fate.node == node and fate.begun > since for fate in fates(self.rows))

    def aborted(self) -> Counter[str]:
        """Return the number of connections that each node ended too early (``SD``)."""
        log = (self.folder / "haproxy.log").read_text()
        return Counter(re.findall(r" nodes/(\w+) [-0-9/]+ \d+ S", log))


class ScaleOut(ScaleOutStage):
    def test_killed(self) -> None:
        """A killed node loses only what it had in flight, and has its share again later."""
        node = self.nodes[0]
        self.under_load()
        killed = self.now(node.process.kill)
        # The kernel closes the sockets of a killed process one after the other.
        node.process.wait()
        closed = time.monotonic()
        self.under_load()
        self.assertNotIn(node.name, self.up())
        node.process = self.start_node(node.name, node.machine)
        back = time.monotonic()
        self.wait_until(lambda: self.is_passed_on(node.name, back), "the node has its share again")
        found = self.finish()
        lost = [fate for fate in found if fate.error]
        self.report("killed", found, killed)
        unrelated = [fate for fate in lost if fate.ended < killed or closed < fate.begun]
        self.assertEqual([], unrelated)
        self.assertLessEqual(set(self.aborted()), {node.name})

    def test_unplugged(self) -> None:
        """A node whose machine is gone loses only what it had in flight."""
        node = self.nodes[0]
        self.under_load()
        gone = self.now(lambda: self.pull_the_plug(node.name))
        self.wait_until(lambda: node.name not in self.up(), "HAProxy sees it")
        # A client that waits for a response of this node detects the end by keep-alive.
        self.wait_until(lambda: time.monotonic() > gone + NOTICED + PHASE, "the rest of it")
        found = self.finish()
        self.report("unplugged", found, gone)
        self.assertEqual(
            [], [fate for fate in found if fate.error and not fate.begun < gone < fate.ended]
        )
        self.assertLess(max(fate.ended - fate.begun for fate in found), NOTICED)

    def test_reloaded(self) -> None:
        """A node that reads its certificate again loses no request, and no connection."""
        node = self.nodes[1]
        self.under_load()
        self.give(node.name, self.new)
        reloaded = self.now(lambda: node.process.send_signal(signal.SIGHUP))
        self.under_load()
        found = self.finish()
        self.report("reloaded", found, reloaded)
        self.assertEqual([], [fate for fate in found if fate.error or fate.again])
        served = {
            fate.server for fate in found if fate.node == node.name and fate.begun > reloaded + 1
        }
        self.assertIn(digest(self.new), served)
        self.assertEqual(
            {digest(self.old)}, {fate.server for fate in found if fate.node != node.name}
        )

    def test_drained(self) -> None:
        """A node that is drained and then stopped loses no request."""
        node = self.nodes[2]
        self.under_load()
        self.tell(f"set server nodes/{node.name} state drain")
        drained = self.now(node.process.terminate)
        # Twisted ends itself with the signal that it received.
        self.assertEqual(-signal.SIGTERM, node.process.wait(PATIENCE))
        self.under_load()
        node.process = self.start_node(node.name, node.machine)
        self.tell(f"set server nodes/{node.name} state ready")
        back = time.monotonic()
        self.wait_until(lambda: self.is_passed_on(node.name, back), "the node has its share again")
        found = self.finish()
        self.report("drained", found, drained)
        self.assertEqual([], [fate for fate in found if fate.error])
        self.assertEqual({}, self.aborted())

    def now(self, event: Callable[[], object]) -> float:
        """Do the step; return the time at which it is done."""
        event()
        return time.monotonic()

    def report(self, event: str, found: Sequence[Fate], at: float) -> None:
        """Print the figures."""
        seconds = max(fate.ended for fate in found) - min(fate.begun for fate in found)
        times = sorted(fate.ended - fate.begun for fate in found if not fate.error)
        figures = {
            "requests": len(found),
            "a second": round(len(found) / seconds),
            "in flight": sum(fate.begun < at < fate.ended for fate in found),
            "lost": sum(bool(fate.error) for fate in found),
            "asked again": sum(fate.again for fate in found),
            "median ms": round(1000 * median(times)),
            "longest ms": round(1000 * times[-1]),
        }
        sys.stdout.write(
            f"\n{event}: {', '.join(f'{name} {figure}' for name, figure in figures.items())}\n"
        )
        for fate in found:
            if fate.error:
                sys.stdout.write(
                    f"    {fate.begun - at:+.3f} to {fate.ended - at:+.3f} s: {fate.error}\n"
                )


def python(module: str, *arguments: str) -> list[str]:
    """Return the prefix that runs a module here.

    Its working directory has no modules, so the path is set.
    """
    return [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
        f"from {module} import main; main(*sys.argv[1:])",
        *arguments,
    ]


def digest(identity: SelfSigned) -> str:
    """Return the digest of a certificate as :mod:`interop.crowd` writes it."""
    return identity.certificate.fingerprint(hashes.SHA256()).hex()[:16]
