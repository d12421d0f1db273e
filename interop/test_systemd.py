"""The pages about systemd, typed by an administrator on a machine with a real systemd.

Each step runs the page's own block. In the demonstration's place as a back end stands the echo back
end, as the README has it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from textwrap import dedent

from interop.machine import Machine, MachineError
from interop.stage import Stage
from tests.support.pages import ROOT, block, read_page
from x509proxy.certificates.self_signed import KeyKind, make_self_signed

_INSTALL = "install-systemd"
_DRAIN = "operations/drain-and-restart"
_TOML = "/etc/x509proxy/x509proxy.toml"
_SHELL = re.compile(r"^\.\. code-block:: sh\n\n((?:(?:    [^\n]*)?\n)+)", re.MULTILINE)
_REQUEST = (
    "curl -sS --max-time 20 --cacert server.pem --cert client.pem --key client.key "
    "https://localhost/"
)


def chapter(heading: str) -> list[str]:
    """Return the commands below a heading of the page about the installation."""
    _, _, rest = read_page(_INSTALL).partition(f"\n{heading}\n---")
    text = re.split(r"\n[^\n]+\n-{3,}\n", rest, maxsplit=1)[0]
    return [dedent(found) for found in _SHELL.findall(text)]


class Life(Stage):
    """One machine from the installation to the removal: each step begins where the last ended."""

    def setUp(self) -> None:
        super().setUp()
        self.require("unshare", "nsenter", "/lib/systemd/systemd")
        if os.geteuid() != 0:
            self.skipTest("namespaces need root")
        checkout = self.folder / "checkout"
        self._copy_checkout(checkout)
        machine = self.folder / "machine"
        machine.mkdir()
        try:
            self.machine = Machine(machine, checkout)
            self.addCleanup(self.machine.stop)
            self.machine.start()
        except MachineError as error:
            self.skipTest(str(error))

    def _copy_checkout(self, folder: Path) -> None:
        """Copy the files of the project, and a server's certificate and key."""
        names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT)
        for name in filter(None, names.decode().split("\0")):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
        made = make_self_signed(KeyKind.EC, "localhost", names=["localhost"], server=True)
        (folder / "server.pem").write_bytes(made.certificate_pem)
        (folder / "server.key").write_bytes(made.key_pem)

    # Steps.

    def run_all(self, scripts: Iterable[str]) -> None:
        for script in scripts:
            self.run_good(script)

    def run_good(self, script: str, *, online: bool = False) -> str:
        """Run a script that must succeed; return its output."""
        done = self.machine.run(script, online=online)
        if done.returncode:
            log = self.machine.run("journalctl -q --no-pager -u 'x509proxy*' -n 40").stdout
            self.fail(f"{script}\n{done.stdout}{done.stderr}\n{log}")
        return done.stdout + done.stderr

    def run_bad(self, script: str) -> str:
        """Run a script that must fail; return its output."""
        done = self.machine.run(script)
        self.assertNotEqual(0, done.returncode, f"{script}\n{done.stdout}")
        return done.stdout + done.stderr

    def journal(self) -> str:
        """Return what an administrator sees of the warnings and errors of the service."""
        return self.run_good("journalctl -q --no-pager -u x509proxy -p warning")

    def assert_serves(self) -> None:
        """Check that the back end receives a client's certificate, and the client its response."""
        self.assertIn('"message": "The client proved possession', self.run_good(_REQUEST))

    def edit(self, old: str, new: str) -> None:
        """Replace a text in the configuration."""
        text = self.run_good(f"cat {_TOML}")
        self.assertIn(old, text)
        self.write_toml(text.replace(old, new))

    def write_toml(self, text: str) -> None:
        self.run_good(f"cat >{_TOML} <<'END'\n{text}END\n")

    # The pages.

    def test_pages(self) -> None:
        """No step, and no mistake that the pages have a remedy for, leaves it without service."""
        self.install()
        self.mistake_in_a_reload()
        self.rotate()
        self.rename_logs()
        self.add_the_socket()
        self.mistake_in_a_restart()
        self.remove()

    def install(self) -> None:
        program, *others = chapter("1. The program")
        _, _, program = program.partition("apt-get install python3-venv\n")
        self.run_good(program, online=True)
        self.run_all([*others, *chapter("2. The user and the files")])
        self.write_toml(block(_INSTALL, "toml"))
        self.run_good("/opt/x509proxy/bin/x509proxy client-certificate")
        unit, check = chapter("4. The unit and the check")
        self.run_good(unit)
        self.assertIn("the configuration is good", self.run_good(check))
        self.assertIn(
            "the configuration is good",
            self.run_good(f"/opt/x509proxy/bin/x509proxy check {_TOML}"),
        )
        self.run_good(
            "systemd-run --unit echo /opt/x509proxy/bin/x509proxy echo\n"
            "until curl -s -o /dev/null http://127.0.0.1:8080/; do sleep 0.2; done"
        )
        (service,) = chapter("5. The service")[:1]
        self.assertIn('Status: "serving', self.run_good(service))
        self.assertIn("ready", self.run_good(block(_INSTALL, "admin")))
        self.assert_serves()
        self.run_all(chapter("6. Logs"))
        self.assertEqual("", self.journal())

    def mistake_in_a_reload(self) -> None:
        self.edit('"connect2id"', '"connect3id"')
        self.run_bad("systemctl reload x509proxy")
        sentence = f"{_TOML}: line 5: preset: found 'connect3id'"
        self.assertIn(sentence, self.run_good("systemctl status -l --no-pager x509proxy"))
        self.assertIn(sentence, self.journal())
        self.assert_serves()
        self.edit('"connect3id"', '"connect2id"')
        self.run_good("systemctl reload x509proxy")
        self.assert_serves()

    def rotate(self) -> None:
        self.run_all(block(_INSTALL, name) for name in ("key", "both", "next"))
        self.assert_serves()

    def rename_logs(self) -> None:
        logrotate = "logrotate -f /etc/logrotate.d/x509proxy"
        self.run_good(logrotate)
        self.assert_serves()
        self.run_good("until grep -q GET /var/log/x509proxy/access.log; do sleep 0.2; done")
        self.run_good(f"systemctl stop x509proxy\nsleep 1\n{logrotate}\nsystemctl start x509proxy")
        self.assert_serves()

    def add_the_socket(self) -> None:
        self.run_good(block(_DRAIN, "socket"))
        (listen,) = block(_DRAIN, "toml").splitlines()
        self.edit('listen = "tcp:443"', listen)
        self.run_good(block(_DRAIN, "restart"))
        self.assert_serves()
        # The request waits in the kernel's queue while the service is restarted.
        self.run_good(f"systemctl restart --no-block x509proxy\n{_REQUEST}")
        self.run_good("systemctl stop x509proxy")
        self.assert_serves()

    def mistake_in_a_restart(self) -> None:
        self.edit('"connect2id"', '"connect3id"')
        self.run_bad("systemctl restart x509proxy")
        self.run_good("until systemctl is-failed x509proxy.socket; do sleep 0.5; done")
        self.assertIn(f"{_TOML}: line 5: preset: found 'connect3id'", self.journal())
        self.edit('"connect3id"', '"connect2id"')
        self.run_good(block(_DRAIN, "mended"))
        self.assert_serves()

    def remove(self) -> None:
        self.run_good(block(_INSTALL, "removal"))
        self.run_bad(_REQUEST)
        # The journal keeps what the service has written.
        left = "find /etc /opt /run /usr /var/log -name '*x509proxy*' -not -path '*/journal/*'"
        self.assertEqual("", self.run_good(left))
        self.assertEqual("", self.run_good("systemctl list-units --all -q 'x509proxy*'"))
