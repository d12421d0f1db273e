"""The README is run: its commands, its configuration, its code; its tables match the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.audit_table import Row, read_rows
from tests.support.pages import ROOT, PageTests, block, read_page
from x509proxy.audit.probes import PROBES

README = read_page("README")
# The aim of a page that is read in five minutes.
MAX_WORDS = 1000


def block(name: str) -> str:
    """Return the indented text behind ``.. test: name``, as a reader would copy it."""
    found = re.search(
        rf"^\.\. test: {name}\n\n[^\n]*::[^\n]*\n\n((?:(?:    [^\n]*)?\n)+)", _README, re.MULTILINE
    )
    if found is None:
        raise AssertionError(f"README.rst has no block {name}")
    return dedent(found[1]).strip() + "\n"


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a program listens there, the process ends, or time is over."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"no program listens on {port}")


class ReadmeTests(SynchronousTestCase):
    """A folder as an administrator has it, with the README's ports replaced by free ones."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(mode=0o700)
        made = make_self_signed(KeyKind.EC, "localhost", names=["localhost"], server=True)
        for name, content in (("server.pem", made.certificate_pem), ("server.key", made.key_pem)):
            path = self.folder / name
            path.touch(mode=0o600)
            path.write_bytes(content)
        self.ports = {"8443": str(free_port()), "8080": str(free_port())}
        self.environ = dict(
            os.environ, PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        )

    def block(self, name: str) -> str:
        """Return the README's block, with free ports."""
        return re.sub(r"\b(8443|8080)\b", lambda port: self.ports[port[0]], block(name))

    def shell(self, commands: str) -> str:
        """Return the output of the commands; each must succeed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(
            (done.returncode, done.stderr.decode() if done.returncode else ""), (0, ""), commands
        )
        return done.stdout.decode()

    @contextmanager
    def running(self, command: list[str], port: str) -> Iterator[None]:
        """Run the command in the background while it listens on the port."""
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(int(port), process)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_PATIENCE)
            finally:
                process.kill()

    def in_shell(self, name: str) -> list[str]:
        """Run the block's last line in the background, after those that prepare it."""
        *before, last = self.block(name).splitlines()
        return ["bash", "-ec", "\n".join([*before, f"exec {last}"])]


class ProductionTests(ReadmeTests):
    """In production in ten minutes."""

    def test_walk_through(self) -> None:
        """The README's steps lead to a proxy that passes a certificate on, and no forged one."""
        self.assertRegex(
            self.shell(self.block("secret")),
            r"^op\.tls\.clientX509CertHeader = Sec-Client-X509-Cert-\w{32}\n$",
        )
        (self.folder / "x509proxy.toml").write_text(self.block("toml"))
        self.assertIn("the configuration is good", self.shell(self.block("check")))
        with (
            self.running(self.in_shell("echo"), self.ports["8080"]),
            self.running(self.in_shell("run"), self.ports["8443"]),
        ):
            shown = self.shell(self.block("client"))
            self.assertIn("CN=my-client", json.loads(shown[shown.index("{") :])["message"])
            forged = self.shell(self.block("forge"))
            self.assertEqual(json.loads(forged)["message"], "No client certificate arrived.")
        log = (self.folder / "access.log").read_text()
        self.assertEqual((log.count("status=200"), log.count("forged_headers=1")), (2, 1))
        secret = (self.folder / "header.txt").read_text().strip().lower()
        self.assertEqual((0, 0), (shown.lower().count(secret), forged.lower().count(secret)))

    def test_trial_is_local(self) -> None:
        """The trial listens on the loopback, and never sends the real name to what shows it."""
        self.assertIn("--listen tcp:8443:interface=127.0.0.1", read_block("run"))
        self.assertIn("--header-file trial.txt", read_block("run"))
        self.assertIn("--listen tcp:8080:interface=127.0.0.1", read_block("echo"))
        self.assertNotIn("header.txt", read_block("forge"))


def read_block(name: str) -> str:
    """Return a block of the README as it is."""
    return block("README", name)


    def test_endpoint(self) -> None:
        """The README's command serves a folder by the ``x509:`` endpoint, and no file beside it."""
        with self.running(self.in_shell("endpoint"), self.ports["8443"]):
            here = f"https://localhost:{self.ports['8443']}"
            self.assertEqual(self.shell(f"curl --cacert server.pem {here}/"), "It works.\n")
            for secret in ("server.key", "../server.key"):
                fetched = self.shell(
                    f"curl --cacert server.pem --path-as-is -o /dev/null -w '%{{http_code}}' {here}/{secret}"
                )
                self.assertEqual(fetched, "404", secret)
            with self.assertRaises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", int(self.ports["8443"])), 1).close()

    def who(self, certificate: ClientCertificate | None) -> bytes:
        """Return the text of the README's resource for a client."""
        names: dict[str, Any] = {}
        exec(self.block("application"), names)  # noqa: S102 - it is what the README tells readers to run
        names["client_certificate"] = lambda _: certificate
        said: bytes = names["WhoAmI"]().render_GET(None)
        return said

    def test_application(self) -> None:
        """The README's resource identifies a client by its thumbprint, not by a bare name."""
        made = make_self_signed(KeyKind.EC, "client").certificate
        known = ClientCertificate.from_x509(made, (SELF_SIGNED,))
        self.assertEqual(self.who(known), known.thumbprint.encode())
        self.assertEqual(self.who(None), b"nobody")
        for other in (
            attrs.evolve(known, not_after=time.time() - 1),
            attrs.evolve(known, flags=frozenset({Flag.WEAK})),
            attrs.evolve(known, verdict=Verdict.UNTRUSTED),
        ):
            self.assertIn(b"somebody whose certificate is", self.who(other))


    def test_application_without_tls(self) -> None:
        """The README's resource identifies no client without TLS."""
        names: dict[str, Any] = {}
        exec(self.block("application"), names)  # noqa: S102 - it is what the README tells readers to run

    def setUp(self) -> None:
        body = README.partition("\n.. test: attacks\n")[2].strip().partition("\n\n")[0]
        ruler = body.partition("\n")[0]
        edges = [match.start() for match in re.finditer("=+", ruler)]
        cells = [
            [line[start:end].strip() for start, end in zip(edges, [*edges[1:], None], strict=True)]
            for line in body.splitlines()
            if line != ruler
        ]
        (_, *names), (_, *self.versions), *self.rows = cells
        runs = {row.product: row for row in read_rows() if row.kind in ("told", "default")}
        self.assertEqual(set(runs), {name.lower() for name in names})
        self.runs = [runs[name.lower()] for name in names]

    def test_versions(self) -> None:
        """The versions are those of the recorded runs; x509proxy has none, since it is this one."""
        self.assertEqual([run.version for run in self.runs[:-1]], self.versions[:-1])
        self.assertEqual(("x509proxy", ""), (self.runs[-1].product, self.versions[-1]))

    def test_attacks(self) -> None:
        """Each cell of an attack is the result of its probe."""
        *attacks, _ = self.rows
        self.assertEqual([*_ATTACKS], [name for name, *_ in attacks])
        for name, *found in attacks:
            self.assertEqual([result(run, _ATTACKS[name]) for run in self.runs], found, name)

    def test_sums(self) -> None:
        """The last row counts the failures of severity critical and high."""
        severe = {probe.id for probe in PROBES if probe.severity.value in ("critical", "high")}
        name, *found = self.rows[-1]
        self.assertEqual("all failures, critical or high", name)
        self.assertEqual([str(len(severe & set(run.failed))) for run in self.runs], found)


class TableTests(unittest.TestCase):
    """The tables of the README."""

    def check(self, table: str, defaults: Settings) -> None:
        """Every number of the table is the default, and every number of the settings is in it."""
        body = _README.split(f"``[{table}]``  ", 1)[1].split("\n\n", 1)[0]
        rows = dict(re.findall(r"^``([a-z-]+)`` +(\d+(?: \w+)?) ", body, re.MULTILINE))
        said = {name: _number(value) for name, value in rows.items()}
        numbers = {
            name: value
            for name, value in msgspec.to_builtins(defaults).items()
            if isinstance(value, int | float)
        }
        self.assertEqual(said, numbers)

    def test_client_limits(self) -> None:
        """The limits of the client's side are those that hold."""
        self.check("client", ClientSettings())

    def test_upstream_limits(self) -> None:
        """The limits of the back end's side are those that hold."""
        self.check("upstream", UpstreamSettings())

    def test_options(self) -> None:
        """Every option is in the README, and every option in the README exists."""
        table = _README.split("Command line\n", 1)[1].split("Security in one screen", 1)[0]
        said = {name for name in re.findall(r"``--([a-z-]+)", table) if name != "help"}
        options = {name.rstrip("=").replace("_", "-") for name in Options().longOpt} - {
            "help",
            "version",
        }
        self.assertEqual(said, options)

    def test_options_are_keys(self) -> None:
        """Every option but the file's own is a key of the file."""
        options = {name.rstrip("=").replace("_", "-") for name in Options().longOpt} - {
            "help",
            "version",
            "config",
        }
        self.assertLessEqual(options, set(msgspec.to_builtins(ProxySettings())))


def _number(text: str) -> float:
    amount, _, unit = text.partition(" ")
    return int(amount) * _UNITS[unit]
