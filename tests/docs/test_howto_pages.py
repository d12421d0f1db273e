"""Promises of the how-to pages: their configurations load, and their commands work."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.support.pages import DOCS, ROOT, PageTests, block, read_page, toml_blocks
from x509proxy.config.loader import load_settings
from x509proxy.forwarding.presets import PRESETS
from x509proxy.forwarding.secret_name import new_header_name
from x509proxy.service.config_check import Finding, Severity, review
from x509proxy.settings import Format, ProxySettings, Settings, keys, table_of
from x509proxy.testing import ThrowAwayAuthority

PAGES = [
    "first-token",
    "container",
    "howto/beside-another-proxy",
    "howto/leave-another-proxy",
    "howto/leave-public-cas",
    "howto/open-banking",
    "howto/rotate-client-certificate",
    "howto/rotate-header-name",
    "operations/capacity",
    "operations/upgrades",
]
# The warnings of blocks that the pages themselves warn of, by their keys.
_WARNINGS = {"howto/leave-public-cas": ["usage"], "container": ["backend"]}
_PATIENCE = 60.0
_ECHO = "exec x509proxy echo --listen tcp:{}:interface=127.0.0.1"
_PROXY = "exec twistd -n --pidfile= x509proxy --config x509proxy.toml"
_TOML = """
listen = "tcp:8443:interface=127.0.0.1"
certificate = "server.pem"
private-key = "server.key"
backend = "http://127.0.0.1:8080"
header-file = "header.txt"
access-log = "access.log"
"""


class Blocks(PageTests):
    page = ""

    def findings(self, text: str) -> list[Finding]:
        """Return what the check finds in a block, with the files that the page makes."""
        path = self.folder / "x509proxy.toml"
        path.write_text(
            text.replace("/run/secrets/x509proxy/tls/tls.crt", "server.pem").replace(
                "/run/secrets/x509proxy/tls/tls.key", "server.key"
            )
        )
        return [*review(str(path))]

    def test_blocks(self) -> None:
        """Each block of TOML is a whole configuration, with no warning but the page's own."""
        authority = ThrowAwayAuthority().certificate.public_bytes(Encoding.PEM)
        for name in ("ca.pem", "qtsp.pem"):
            (self.folder / name).write_bytes(authority)
        header = self.folder / "header.txt"
        header.touch(mode=0o600)
        header.write_text(new_header_name() + "\n")
        counted = 0
        for page in PAGES:
            warned: list[str] = []
            for text in toml_blocks(page):
                found = self.findings(text)
                counted += 1
                errors = [one.message for one in found if one.severity is Severity.ERROR]
                self.assertEqual([], errors, f"{page}: {text}")
                warned += [one.key for one in found if one.severity is Severity.WARNING]
            self.assertEqual(_WARNINGS.get(page, []), warned, page)
        self.assertGreater(counted, 12)


def key_exists(name: str) -> bool:
    """Return whether a key exists, written with its tables: ``client.idle-timeout``."""
    kind: type[Settings] | None = ProxySettings
    for part in name.split("."):
        fields = {} if kind is None else keys(kind)
        if part not in fields:
            return False
        kind = table_of(fields[part].type)
    return True


class Tables(SynchronousTestCase):
    """The tables that map another product's words to keys."""

    def right(self) -> list[str]:
        """Return the words in the right columns of the page's tables."""
        page = read_page("howto/leave-another-proxy")
        cells = re.findall(r"^   \* - .*\n     - (.*(?:\n       .*)*)$", page, re.MULTILINE)
        return [word for cell in cells for word in re.findall(r"``([^`]+)``", cell)]

    def test_keys(self) -> None:
        """Each key in a right column exists, and so does each of its values."""
        words = self.right()
        self.assertGreater(len(words), 60)
        commands = {"x509proxy check", "pem", "rfc9440"}
        for word in words:
            name, _, value = word.partition(" = ")
            name = name.strip("[]")
            if word in commands or name.startswith('"'):
                continue
            if name == "format":
                Format(value.strip('"'))
            elif name == "preset":
                self.assertIn(value.strip('"'), PRESETS)
            elif name in ("path", "proxy-protocol", "trusted-proxies"):
                self.assertTrue(
                    key_exists(f"rules.{name}") or key_exists(f"listeners.{name}"), name
                )
            else:
                self.assertTrue(key_exists(name), name)

    def test_formats(self) -> None:
        """Each word that stands alone in quotation marks is a format."""
        for word in self.right():
            if word.startswith('"'):
                Format(word.strip('"'))


class Running(PageTests):
    """The proxy with the demonstration back end, and the files of an administrator."""

    page = ""

    def setUp(self) -> None:
        super().setUp()
        self.shell("x509proxy secret --write header.txt")

    @contextmanager
    def proxy(self, toml: str = _TOML) -> Iterator[subprocess.Popen[bytes]]:
        """Run both, with a block's configuration on the loopback."""
        local = '"tcp:8443:interface=127.0.0.1"'
        toml = re.sub(r'"tcp:8443(?::interface=127\.0\.0\.1)?"', local, toml)
        (self.folder / "x509proxy.toml").write_text(self.here(toml))
        echo = ["bash", "-ec", _ECHO.format(self.ports["8080"])]
        with (
            self.running(echo, self.ports["8080"]),
            self.running(["bash", "-ec", _PROXY], self.ports["8443"]) as process,
        ):
            yield process

    def ask(self, client: str | None, *more: str) -> dict[str, object]:
        """Send a request with the certificate in ``CLIENT.pem``; return the response's JSON."""
        words = ["curl -s --cacert server.pem", *more]
        if client is not None:
            words.append(f"--cert {client}.pem --key {client}.key")
        found = json.loads(
            self.shell(" ".join([*words, self.here("https://localhost:8443/token")]))
        )
        assert isinstance(found, dict)
        return found

    def certificates(self, *question: str | None) -> int:
        """Return how many headers with a certificate arrived."""
        client, *more = question
        found = self.ask(client, *(word for word in more if word))["certificates"]
        assert isinstance(found, list)
        return len(found)

    def until(self, count: int, client: str) -> None:
        """Wait until so many headers arrive: a reload takes a moment."""
        end = time.monotonic() + _PATIENCE
        while (found := self.certificates(client)) != count:
            self.assertLess(time.monotonic(), end, found)
            time.sleep(0.05)


class HeaderName(Running):
    """``docs/howto/rotate-header-name.rst``."""

    page = "howto/rotate-header-name"

    def test_rotation(self) -> None:
        """Two names are sent between the steps, and the old one cannot be forged after the last."""
        self.shell("x509proxy client-certificate --out me")
        header = self.folder / "header.txt"
        old = header.read_text().strip()
        with self.proxy() as process:
            self.assertEqual(1, self.certificates("me"))
            self.assertIn("op.tls.clientX509CertHeader = ", self.shell(self.block("second")))
            self.assertEqual(2, len(header.read_text().split()))
            self.assertEqual(0o600, header.stat().st_mode & 0o777)
            os.kill(process.pid, signal.SIGHUP)
            self.until(2, "me")
            self.shell(self.block("first"))
            self.assertNotIn(old, header.read_text())
            os.kill(process.pid, signal.SIGHUP)
            self.until(1, "me")
            forged = f"-H '{old}: '\"$(tr -d '\\n' < me.pem)\""
            self.assertEqual(0, self.certificates(None, forged))


class ClientCertificate(Running):
    """``docs/howto/rotate-client-certificate.rst``."""

    page = "howto/rotate-client-certificate"

    def test_rotation(self) -> None:
        """The two key sets become one, and the log counts requests by certificate."""
        if shutil.which("jq") is None:
            raise SkipTest("jq is not here")
        printed = self.shell("x509proxy client-certificate --name my-client --out my-client")
        printed += self.shell(self.block("new"))
        thumbprints = re.findall(r"x5t#S256: (\S+)", printed)
        keys = json.loads((self.folder / "both.jwks.json").read_text())["keys"]
        self.assertEqual(thumbprints, [key["x5t#S256"] for key in keys])
        with self.proxy():
            self.ask("my-client")
            self.shell(self.block("ask"))
            self.ask("my-client-2")
        counted = self.shell(self.block("count")).split()
        found = dict(zip(counted[1::2], counted[::2], strict=True))
        expected = {f"x5t_s256={one}": str(n) for n, one in enumerate(thumbprints, 1)}
        self.assertEqual(expected, found)
        subject = self.shell(self.block("subject"))
        self.assertIn("subject=CN = my-client\n".replace(" ", ""), subject.replace(" ", ""))


class PublicAuthorities(Running):
    """``docs/howto/leave-public-cas.rst``."""

    page = "howto/leave-public-cas"

    def test_ways_out(self) -> None:
        """A certificate for servers is rejected and found in the log; both ways out pass."""
        self.shell(self.block("authority"))
        self.assertIn("TLS Web Client Authentication", self.shell(self.block("usage")))
        self.shell("x509proxy client-certificate --out own")
        self.server_only()
        with self.proxy(self.block("either")):
            self.assertEqual(1, self.certificates("my-client"))
            self.assertEqual(1, self.certificates("own"))
            self.assertEqual("invalid_client", self.ask("web-server")["error"])
        found = self.shell(self.block("find")).splitlines()
        self.assertEqual(1, len(found))
        self.assertIn("code=wrong_usage", found[0])
        with self.proxy(self.block("ignore")):
            self.assertEqual(1, self.certificates("web-server"))
            self.assertEqual("invalid_client", self.ask("own")["error"])

    def server_only(self) -> None:
        """Issue a certificate as public authorities do now."""
        commands = self.block("authority").partition("-out ca.pem\n")[2]
        self.shell(commands.replace("my-client", "web-server").replace("clientAuth", "serverAuth"))


class OpenBanking(Running):
    """``docs/howto/open-banking.rst``."""

    page = "howto/open-banking"

    def test_qwac(self) -> None:
        """The test authority's certificate passes, a self-signed one with its subject does not."""
        self.shell(self.block("authority"))
        subject = self.block("subject").strip()
        with self.proxy(self.block("qwac")):
            asked = self.block("ask").replace("curl ", "curl -s ")
            self.assertIn(subject, json.loads(self.shell(asked))["message"])
            self.shell(
                "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj "
                "'/C=DE/O=Test TPP/2.5.4.97=PSDDE-BAFIN-123456/CN=tpp.example' "
                "-keyout fake.key -out fake.pem 2>&1"
            )
            self.assertEqual("invalid_client", self.ask("fake")["error"])
        log = [json.loads(line) for line in (self.folder / "access.log").read_text().splitlines()]
        self.assertEqual([None, "untrusted"], [line["code"] for line in log])
        self.assertEqual({subject}, {line["subject"] for line in log})

    def test_subject_header(self) -> None:
        """The subject in the header is the page's."""
        self.shell(self.block("authority"))
        subject = self.block("subject").strip()
        with self.proxy(self.block("subject-header")):
            headers = self.ask("qwac")["headers"]
        assert isinstance(headers, list)
        self.assertIn(
            ["x-client-cert-subject", subject], [[name.lower(), value] for name, value in headers]
        )


class Container(SynchronousTestCase):
    """``docs/container.rst``, against ``contrib/Containerfile``."""

    def test_commands(self) -> None:
        """The commands use the file, the port, the user and the folder of the image."""
        image = (ROOT / "contrib" / "Containerfile").read_text()
        self.assertIn("--file contrib/Containerfile", block("container", "build"))
        run = block("container", "run")
        [port] = re.findall(r"^EXPOSE (\d+)", image, re.MULTILINE)
        self.assertIn(f"--publish 443:{port} ", run)
        [config] = re.findall(r'"--config", "(.*?)"', image)
        self.assertIn(f":{config.rpartition('/')[0]}:ro ", run)
        self.assertTrue(block("container", "check").rstrip().endswith(f"check {config}"))
        [user] = re.findall(r"^USER (.*)$", image, re.MULTILINE)
        self.assertIn(f"chown -R {user} ", block("container", "owner"))

    def test_patience(self) -> None:
        """The stop waits longer than the proxy does for what is in flight."""
        [seconds] = re.findall(r"podman stop --time (\d+)", read_page("container"))
        self.assertGreater(int(seconds), ProxySettings().client.drain_timeout)

    def test_compose(self) -> None:
        """The Compose file has the options of the page's command."""
        document = yaml.safe_load((ROOT / "contrib" / "compose.yaml").read_text())
        service = document["services"]["x509proxy"]
        run = block("container", "run")
        options = re.findall(r"--(?:publish|volume) (\S+)", run)
        self.assertEqual(options, service["ports"] + service["volumes"])
        self.assertIn("--read-only --cap-drop=all", run)
        self.assertEqual((True, ["ALL"]), (service["read_only"], service["cap_drop"]))
        self.assertEqual(["no-new-privileges:true"], service["security_opt"])
        self.assertTrue((ROOT / "contrib" / service["build"]["context"] / "setup.py").exists())
        self.assertEqual("contrib/Containerfile", service["build"]["dockerfile"])
        patience = int(service["stop_grace_period"].removesuffix("s"))
        self.assertGreater(patience, ProxySettings().client.drain_timeout)
        self.assertIn("--file contrib/compose.yaml", block("container", "compose"))

    def test_quadlet(self) -> None:
        """The Quadlet unit has the options of the page's command, and checks before a reload."""
        unit = (ROOT / "contrib" / "x509proxy.container").read_text()
        run = block("container", "run")
        pairs = re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE)
        for option, key in (("publish", "PublishPort"), ("volume", "Volume")):
            self.assertEqual(
                re.findall(rf"--{option} (\S+)", run),
                [value for name, value in pairs if name == key],
            )
        safe = {("ReadOnly", "true"), ("DropCapability", "all"), ("NoNewPrivileges", "true")}
        self.assertLessEqual(safe, set(pairs))
        check, signal = [value for name, value in pairs if name == "ExecReload"]
        self.assertTrue(check.endswith(" x509proxy check /etc/x509proxy/x509proxy.toml"))
        self.assertTrue(signal.endswith(" kill --signal HUP x509proxy"))
        drain = ProxySettings().client.drain_timeout
        patience = int(dict(pairs)["PodmanArgs"].removeprefix("--stop-timeout="))
        self.assertGreater(patience, drain)
        self.assertGreater(int(dict(pairs)["TimeoutStopSec"]), patience)
        self.assertIn("contrib/x509proxy.container", block("container", "quadlet"))


class Every(SynchronousTestCase):
    """All pages, the parts of configurations among them."""

    def test_keys(self) -> None:
        """Each block of TOML has keys and values of the proxy, but for one of another product."""
        pages = sorted(str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.rst"))
        path = Path(self.mktemp())
        counted = 0
        for page in ["README", *pages]:
            for text in toml_blocks(page):
                if "[oauth." not in text:  # deployment.toml of WSO2
                    path.write_text(text)
                    load_settings(str(path))
                    counted += 1
        self.assertGreater(counted, 60)


class Alike(SynchronousTestCase):
    def test_listed(self) -> None:
        """Each how-to page is checked here or has a test of its own."""
        own = {"howto/embedding"}
        found = {f"howto/{path.stem}" for path in (DOCS / "howto").glob("*.rst")}
        self.assertEqual(
            found,
            {page for page in PAGES if page.startswith("howto/")}
            | own
            | {"howto/python-applications"},
        )
