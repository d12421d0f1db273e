"""Scanners of TLS, slow clients by the hundred, and auditors of code, against a running proxy.

Each test prints its figure; ``python -m twisted.trial interop.test_scanners`` runs them alone.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from interop.stage import Proxy, Stage
from tests.support.ports import free_port

ROOT = Path(__file__).parents[1]
SLOW_SECONDS = 15
SLOW_CLIENTS = 300
# The share of an honest client's requests that must be served meanwhile, in percent.
AVAILABLE = 99
_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_TOML = """\
listen = ["tcp:{port}:interface=127.0.0.1"]
certificate = "server.pem"
private-key = "server.key"
header-file = "header.txt"
backend = ["http://127.0.0.1:{back_end}"]
"""


class Scanned(Stage):
    """A proxy in front of ``x509proxy echo``."""

    def setUp(self) -> None:
        super().setUp()
        self.proxy = self.proxy_and_back_end()
        # Cleanups run in reverse: before the folder goes.
        self.addCleanup(self.assert_no_traceback)

    def proxy_and_back_end(self) -> Proxy:
        """Start both, at free ports."""
        back_end = free_port()
        tool = str(Path(sys.executable).parent / "x509proxy")
        listen = f"tcp:{back_end}:interface=127.0.0.1"
        echo = self.start("echo", [tool, "echo", "--listen", listen])
        self.wait_for(back_end, echo, "echo")
        self.server_files()
        port = free_port()
        proxy = self.start_proxy(_TOML.format(port=port, back_end=back_end), port)
        self.assertEqual("200", self.ask(proxy))
        return proxy

    def ask(self, proxy: Proxy) -> str:
        """Send one request as an honest client; return its status, or 000."""
        command = [
            "curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}",
            "--max-time", "3", "--cacert", str(proxy.authority), f"{proxy.url}/",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        return done.stdout

    def assert_no_traceback(self) -> None:
        """Check that the proxy's log has no traceback."""
        self.assertNotIn("Traceback", self.proxy.log.read_text(errors="replace"))


class Tls(Scanned):
    def test_sslscan(self) -> None:
        """Only TLS 1.2 and 1.3 with ECDHE and AEAD are found by sslscan, and no renegotiation."""
        self.require("sslscan")
        report = self.run_program("sslscan", "--no-colour", f"127.0.0.1:{self.proxy.port}")
        states = dict(re.findall(r"^((?:SSL|TLS)v\S+) +(enabled|disabled)", report, re.MULTILINE))
        old = {"SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1"}
        new = {"TLSv1.2", "TLSv1.3"}
        expected = dict.fromkeys(old, "disabled") | dict.fromkeys(new, "enabled")
        self.assertEqual(expected, states)
        suites = re.findall(r"^(?:Preferred|Accepted) +.*", report, re.MULTILINE)
        strong = r"TLSv1\.3 .* TLS_|TLSv1\.2 .* ECDHE-(?:ECDSA|RSA)-.*(?:GCM|CHACHA20)"
        print(f"sslscan: {len(suites)} suites")
        self.assertTrue(suites)
        self.assertEqual([], [suite for suite in suites if not re.search(strong, suite)])
        self.assertIn("Session renegotiation not supported", report)
        self.assertEqual(2, report.count("not vulnerable to heartbleed"))

    def test_testssl(self) -> None:
        """No old protocol, no resumption and no attack succeeds, as testssl finds."""
        self.require("testssl")
        found = self.testssl()
        for name in ("SSLv2", "SSLv3", "TLS1", "TLS1_1"):
            self.assertEqual("not offered", found[name], name)
        self.assertEqual("offered", found["TLS1_2"])
        self.assertTrue(found["TLS1_3"].startswith("offered"), found["TLS1_3"])
        self.assertEqual("not supported", found["sessionresumption_ticket"])
        self.assertRegex(found["sessionresumption_ID"], r"^(not supported|No Session ID)")
        # Compression is CRIME_TLS; Debian's sslscan cannot see it.
        for name in ("secure_client_renego", "CRIME_TLS", "heartbleed", "CCS", "ticketbleed"):
            self.assertRegex(found[name], r"^(not vulnerable|no session ticket extension)", name)

    def testssl(self) -> dict[str, str]:
        """Run testssl; its findings by their ids."""
        report = self.folder / "testssl.json"
        found: dict[str, str] = {}
        # Where its own client has left before the ticket came, it has no verdict: again, then.
        for _ in range(3):
            report.unlink(missing_ok=True)
            command = [
                "testssl", "--quiet", "--color", "0", "--warnings", "batch", "--ip", "one",
                "--openssl-timeout", "5", "--jsonfile", str(report), "--protocols",
                "--server-defaults", "--renegotiation", "--compression", "--heartbleed",
                "--ccs-injection", "--ticketbleed", f"localhost:{self.proxy.port}",
            ]  # fmt: skip
            subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=100, check=False
            )
            found = {entry["id"]: entry["finding"] for entry in json.loads(report.read_bytes())}
            if not found["sessionresumption_ticket"].endswith("connect problem"):
                break
        return found

    def test_openssl(self) -> None:
        """OpenSSL's client resumes no session, in TLS 1.2 and in TLS 1.3."""
        self.require("openssl")
        session = self.folder / "session"
        client = ["openssl", "s_client", "-connect", f"127.0.0.1:{self.proxy.port}"]
        for version in ("-tls1_2", "-tls1_3"):
            session.unlink(missing_ok=True)
            save = [*client, version, "-quiet", "-sess_out", str(session)]
            subprocess.run(save, input=_REQUEST, capture_output=True, timeout=20, check=False)
            if session.exists() and session.stat().st_size:
                resume = [*client, version, "-sess_in", str(session)]
                again = subprocess.run(
                    resume, input=b"", capture_output=True, timeout=20, check=False
                )
                self.assertRegex(again.stdout.decode("ascii", "replace"), r"(?m)^New, ", version)


class SlowClients(Scanned):
    def slow(self, name: str, *options: str) -> None:
        """Let slow clients hold on; an honest one is answered meanwhile, and after them."""
        self.require("slowhttptest", "curl")
        command = [
            "slowhttptest", "-c", str(SLOW_CLIENTS), "-r", "150", "-l", str(SLOW_SECONDS),
            "-p", "3", "-v", "1", *options, "-u", f"https://127.0.0.1:{self.proxy.port}/",
        ]  # fmt: skip
        process = self.start("slowhttptest", command)
        statuses: list[str] = []
        ended = threading.Event()
        asking = threading.Thread(target=self.ask_until, args=(ended, statuses.append))
        asking.start()
        try:
            process.wait(SLOW_SECONDS + 30)
        finally:
            ended.set()
            asking.join()
        share = 100 * statuses.count("200") // len(statuses)
        print(f"slowhttptest, {name}: {statuses.count('200')} of {len(statuses)} answered")
        self.assertGreaterEqual(share, AVAILABLE, statuses)
        self.assertEqual("200", self.ask(self.proxy))

    def ask_until(self, ended: threading.Event, answered: Callable[[str], None]) -> None:
        """Send a request every tenth of a second."""
        while not ended.wait(0.1):
            answered(self.ask(self.proxy))

    def test_heads(self) -> None:
        """Slow heads by the hundred do not keep an honest client waiting."""
        self.slow("slow heads", "-H", "-i", "3")

    def test_bodies(self) -> None:
        """Slow bodies by the hundred do not keep an honest client waiting."""
        self.slow("slow bodies", "-B", "-i", "3", "-s", "8192")

    def test_readers(self) -> None:
        """Slow readers by the hundred do not keep an honest client waiting."""
        self.slow("slow readers", "-X", "-w", "1", "-y", "16", "-n", "3", "-z", "4", "-k", "10")


class Auditors(Stage):
    def test_bandit(self) -> None:
        """Nothing of medium or high severity is found in the package by bandit."""
        program = str(Path(sys.executable).parent / "bandit")
        self.require(program)
        package = str(ROOT / "x509proxy")
        self.run_program(
            program, "--quiet", "--recursive", "--severity-level", "medium", package, seconds=120
        )

    def test_pip_audit(self) -> None:
        """No vulnerability of the dependencies at the installed versions is known to pip-audit."""
        program = str(Path(sys.executable).parent / "pip-audit")
        self.require(program)
        frozen = self.run_program(
            sys.executable, "-m", "pip", "freeze", "--exclude", "x509proxy", "--exclude-editable"
        )
        requirements = self.write("requirements.txt", frozen)
        report = self.folder / "audit.json"
        command = [
            program, "--progress-spinner", "off", "--disable-pip", "--no-deps", "--requirement",
            str(requirements), "--format", "json", "--output", str(report),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        entries = json.loads(report.read_bytes())["dependencies"] if report.exists() else []
        audited = [entry for entry in entries if "skip_reason" not in entry]
        if not audited:
            self.skipTest("pip-audit's service cannot be reached, or knows none of the packages")
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
