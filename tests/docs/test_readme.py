"""Promises of the README: its commands, its configuration and its tables are run and compared."""

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


class ProductionTests(PageTests):
    """Ten minutes to production."""

    page = "README"

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
            self.assertEqual(
                json.loads(forged)["message"],
                "The forged field was removed. No client certificate arrived.",
            )
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


# The rows of the table, and their probes.
_ATTACKS = {
    "forged header to the plain-HTTP port": "plain-forged",
    "forged header over TLS": "name-same",
    "forged header to a path with own rules": "target-special",
    "``X_Client_Cert`` for ``X-Client-Cert``": "twin-underscores",
    "``X.Client.Cert`` for ``X-Client-Cert``": "twin-marks",
    "forged header as a trailer field": "trailer-announced",
    "``Connection`` removes the genuine header": "connection-nominates",
    "session resumed under another name": "resumption-names",
}


def result(row: Row, probe: str) -> str:
    """Return the README's word for the result of a probe."""
    if probe in row.failed:
        return "passes"
    return "--" if probe in row.passed else "n/a"


class TableTests(SynchronousTestCase):
    """The table of attacks, against the recorded runs of ``interop.test_audit``."""

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
        runs = {row.product: row for row in read_rows() if row.kind in ("published", "default")}
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


class PageLengthTests(SynchronousTestCase):
    def test_short(self) -> None:
        """The README stays short: what is longer belongs to a page."""
        self.assertLessEqual(len(README.split()), MAX_WORDS)

    def test_links(self) -> None:
        """Each page and picture that the README links exists."""
        links = re.findall(r"<((?:docs|contrib)/[^>]+)>`_", README)
        links += re.findall(r"^\.\. image:: (.+)$", README, re.MULTILINE)
        self.assertGreater(len(links), 15)
        self.assertEqual([], [link for link in links if not Path(ROOT / link).is_file()])
        for page in ("docs/servers/connect2id.rst", "docs/install-systemd.rst", "docs/index.rst"):
            self.assertIn(page, links)
