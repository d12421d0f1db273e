"""Reports: what people and programs read of an audit, without a secret name."""

from __future__ import annotations

import json
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.audit.client import Ending
from x509proxy.audit.lab import Exchange, Response
from x509proxy.audit.probe import Severity
from x509proxy.audit.probes import PROBES
from x509proxy.audit.recorder import Arrival
from x509proxy.audit.report import (
    Redactor,
    Report,
    progress_line,
    summary,
    to_html,
    to_json,
    to_junit,
    to_sarif,
    to_table,
)
from x509proxy.audit.run import Outcome, Result, failures

NAME = b"Sec-Client-X509-Cert-q8Zr2LxW0vTn5KdYb7HcJm3PfAs9GeUi"
_BY_ID = {probe.id: probe for probe in PROBES}


def exchange(arrived: tuple[Arrival, ...], reply: bytes = b"HTTP/1.1 200 OK\r\n\r\nok") -> Exchange:
    """Return an exchange whose request has the secret name in another spelling."""
    sent = (
        b"GET /<&> HTTP/1.1\r\nHost: a\r\n" + NAME.replace(b"-", b"_").lower() + b": " + b"A" * 300
    )
    many = b"".join(b"\r\nX-%d: 1" % at for at in range(20))
    return Exchange(sent + many, reply, (Response(200),), arrived, Ending.CLOSED, alert="bad")


ARRIVED = Arrival(b"GET", b"/", ((NAME, b"x"),), raw=b"GET / HTTP/1.1\r\n" + NAME + b": x")
RESULTS = (
    Result(_BY_ID["method-any"], Outcome.PASSED),
    Result(_BY_ID["sibling-xfcc"], Outcome.FAILED, ("X-Forwarded-Client-Cert: found it",)),
    Result(
        _BY_ID["name-same"], Outcome.FAILED, (f"{NAME.decode()}: found <forged>",), "", 0.5,
        (exchange((ARRIVED,)), exchange((Arrival(b"GET", b"/", ()),), b"")),
    ),
    Result(_BY_ID["h2-forged"], Outcome.NOT_APPLICABLE, reason="no <HTTP/2>"),
)  # fmt: skip
REPORT = Report("https://as.example", RESULTS, Redactor((NAME,)), "1.2", 3.0)
_RANDOM = "q8zr2lxw0vtn5kdyb7hcjm3pfas9geui"


class Reports(SynchronousTestCase):
    def test_secret(self) -> None:
        """No report holds the secret name, in any spelling; its separators stay visible."""
        for text in (
            to_table(REPORT, verbose=True),
            to_json(REPORT),
            to_junit(REPORT),
            to_sarif(REPORT),
            to_html(REPORT),
        ):
            self.assertNotIn(_RANDOM, text.lower())
        self.assertIn("SECRET_…_…_…_…: A", to_table(REPORT))

    def test_plain_name(self) -> None:
        """A name that everybody knows is shown."""
        self.assertEqual("X-Client-Cert: a", Redactor((b"X-Client-Cert",))("X-Client-Cert: a"))

    def test_table(self) -> None:
        """The worst comes first, and each failure has its request, its arrival and its remedies."""
        text = to_table(REPORT)
        self.assertLess(text.index("name-same"), text.index("sibling-xfcc"))
        self.assertIn("name-same failed: fix it first", text)
        self.assertIn("  sent:\n    GET /<&> HTTP/1.1", text)
        self.assertIn("  arrived:\n    GET / HTTP/1.1", text)
        self.assertIn("(only its response was seen)", text)
        self.assertIn("  response:\n    bad", text)
        self.assertIn("more lines (--verbose)", text)
        self.assertIn("  nginx: proxy_set_header NAME", text)
        self.assertNotIn("more lines", to_table(REPORT, verbose=True))
        self.assertTrue(text.endswith("2 failed, 1 passed, 1 not applicable, in 3.0 s\n"))

    def test_clean(self) -> None:
        """Without a failure there is no such section."""
        text = to_table(Report("https://a", RESULTS[:1], Redactor(())))
        self.assertNotIn("Failures", text)

    def test_json(self) -> None:
        """JSON holds every probe with its evidence."""
        found = json.loads(to_json(REPORT))["results"]
        self.assertEqual(
            ["passed", "failed", "failed", "not_applicable"], [each["outcome"] for each in found]
        )
        self.assertEqual(["sent", "arrived", "response"], list(found[2]["evidence"][0]))

    def test_junit(self) -> None:
        """JUnit is XML, with failures and skips."""
        suite = ElementTree.fromstring(to_junit(REPORT))  # noqa: S314 - our own
        self.assertEqual(
            ("4", "2", "1"), tuple(suite.attrib[key] for key in ("tests", "failures", "skipped"))
        )
        self.assertEqual(2, len(suite.findall("testcase/failure")))

    def test_sarif(self) -> None:
        """SARIF has a rule for each probe, and a result for each failure."""
        (run,) = json.loads(to_sarif(REPORT))["runs"]
        self.assertEqual(4, len(run["tool"]["driver"]["rules"]))
        self.assertEqual(["name-same", "sibling-xfcc"], [each["ruleId"] for each in run["results"]])
        self.assertEqual(["error", "note"], [each["level"] for each in run["results"]])

    def test_html(self) -> None:
        """The page escapes what was sent, and needs nothing else."""
        text = to_html(REPORT)
        self.assertIn("found &lt;forged&gt;", text)
        self.assertNotIn("<script", text)
        self.assertNotIn("<forged>", text)
        clean = to_html(Report("https://a", (), Redactor(())))
        self.assertIn("<p>None.</p>", clean)

    def test_severity(self) -> None:
        """Failures are counted from a severity on."""
        self.assertEqual(1, len(failures(RESULTS, Severity.HIGH)))
        self.assertEqual(2, len(failures(RESULTS)))

    def test_progress(self) -> None:
        """While it runs, a line shows the progress."""
        self.assertEqual("[2/9] pass method-any", progress_line(2, 9, RESULTS[0]))
        self.assertIn("https://as.example: 2 failed", summary(REPORT))
