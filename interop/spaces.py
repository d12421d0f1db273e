"""Machines on one wire, as network namespaces with addresses of their own and no way out.

The switch that connects them is in a namespace too, so that this machine's own addresses, routes
and filters are not touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

import attrs

from interop.stage import Stage

__all__ = ["Machine", "NetworkStage"]


@attrs.frozen
class Machine:
    """One namespace. ``address``: its IPv4 address on the wire."""

    space: str
    address: str

    def command(self, *command: str) -> list[str]:
        """Return the prefix that runs a command there; ``ip`` becomes the command's process."""
        return ["ip", "netns", "exec", self.space, *command]


class NetworkStage(Stage):
    """A stage with machines; they are removed at the end of the test, with any result."""

    def setUp(self) -> None:
        super().setUp()
        self._prefix = f"x509-{os.getpid()}"
        self._require_spaces()
        self._switch = self._space("switch")
        _ip("-n", self._switch, "link", "add", "wire", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "wire", "up")

    def _require_spaces(self) -> None:
        """Skip where namespaces are not permitted.

        Only root with ``ip`` can have them: then, in CI, it is a failure.
        """
        if shutil.which("ip") is None or os.geteuid() != 0:
            self.skipTest("network namespaces need root, and ip of iproute2")
        probe = f"{self._prefix}-probe"
        done = subprocess.run(
            ["ip", "netns", "add", probe], capture_output=True, timeout=20, check=False
        )
        if done.returncode:
            reason = f"no network namespaces here: {done.stderr.decode(errors='replace').strip()}"
            if os.environ.get("CI"):
                self.fail(reason)
            self.skipTest(reason)
        _ip("netns", "delete", probe)

    def _space(self, name: str) -> str:
        space = f"{self._prefix}-{name}"
        _ip("netns", "add", space)
        # The other end of each wire goes with it.
        self.addCleanup(_ip, "netns", "delete", space)
        return space

    def machine(self, name: str, address: str) -> Machine:
        """Add a new machine to the wire. ``name``: at most 10 letters and digits."""
        space = self._space(name)
        _ip(
            "-n",
            space,
            "link",
            "add",
            "eth0",
            "type",
            "veth",
            "peer",
            "name",
            name,
            "netns",
            self._switch,
        )
        _ip("-n", self._switch, "link", "set", name, "master", "wire", "up")
        _ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            _ip("-n", space, "link", "set", link, "up")
        return Machine(space, address)

    def pull_the_plug(self, name: str) -> None:
        """Disconnect a machine from the wire, in both directions."""
        _ip("-n", self._switch, "link", "set", name, "down")

    def start_on(
        self, machine: Machine, name: str, command: Sequence[str]
    ) -> subprocess.Popen[bytes]:
        """Start a program on a machine, as :meth:`Stage.start` does here."""
        return self.start(name, machine.command(*command))

    def reach(
        self, machine: Machine, address: str, port: int, process: subprocess.Popen[bytes], name: str
    ) -> None:
        """Wait until a program listens at the address, as seen from the machine.

        Fail at once if the process has ended.
        """
        probe = machine.command(sys.executable, "-c", _PROBE, address, str(port))
        end = time.monotonic() + _PATIENCE
        while subprocess.run(probe, timeout=20, capture_output=True, check=False).returncode:
            log = (self.folder / f"{name}.log").read_text(errors="replace")
            self.assertIsNone(process.poll(), log)
            self.assertLess(time.monotonic(), end, log)
            time.sleep(0.2)


_PATIENCE = 60.0  # seconds for a program to start
_PROBE = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, timeout=20, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.decode(errors='replace').strip()}")
