"""Promises of ``docs/operations/alerts.rst`` and the rules for Prometheus.

Each alert has a runbook and tests.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import yaml
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.support.pages import ROOT, block, read_page

RULES = ROOT / "contrib" / "prometheus"
PAGE = read_page("operations/alerts")
_SECTION = re.compile(r"^(X509Proxy\w+)\n~+\n\n\*(\w+)\.\*", re.MULTILINE)


def read_rules(name: str) -> list[dict[str, Any]]:
    """Return the rules of one file."""
    groups = yaml.safe_load((RULES / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """Return the alerts of both files, in their order."""
    rules = [*read_rules("alerts.yml"), *read_rules("slo.yml")]
    return [rule for rule in rules if "alert" in rule]


class Runbooks(SynchronousTestCase):
    def test_sections(self) -> None:
        """Each alert has a section with its severity, and there is no other section."""
        expected = [(rule["alert"], rule["labels"]["severity"]) for rule in alerts()]
        found = [(name, severity.lower()) for name, severity in _SECTION.findall(PAGE)]
        self.assertEqual(sorted(expected), sorted(found))
        self.assertEqual(len(re.findall(r"^X509Proxy\w+\n~", PAGE, re.MULTILINE)), len(expected))

    def test_links(self) -> None:
        """The annotation of each alert is the anchor of its section."""
        for rule in alerts():
            self.assertEqual(
                f"operations/alerts.html#{rule['alert'].lower()}", rule["annotations"]["runbook"]
            )

    def test_steps(self) -> None:
        """Each runbook begins with a first step, or states that there is none."""
        _, *parts = re.split(r"^(X509Proxy\w+)\n~+\n", PAGE, flags=re.MULTILINE)
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            self.assertTrue("\n1. " in text or "the same queries" in " ".join(text.split()), name)

    def test_series(self) -> None:
        """The queries use series of the page on metrics, or those that ``slo.yml`` records."""
        families = set(
            re.findall(r"^``(x509proxy_\w+)``", read_page("operations/metrics"), re.MULTILINE)
        )
        parts = {f"x509proxy_request_duration_seconds_{part}" for part in ("bucket", "count")}
        there = families | parts
        recorded = {rule["record"] for rule in read_rules("slo.yml") if "record" in rule}
        for page in ("operations/alerts", "operations/capacity", "operations/upgrades"):
            for name in re.findall(r"(?<![\w:])x509proxy_\w+", read_page(page)):
                self.assertIn(name, there, page)
        for name in re.findall(r"job:x509proxy_\w+:\w+", PAGE):
            self.assertIn(name, recorded)
        for rule in read_rules("slo.yml"):
            for name in re.findall(r"(?<![\w:])x509proxy_\w+", rule["expr"]):
                self.assertIn(name, there, rule)
            for name in re.findall(r"job:x509proxy_\w+:\w+", rule["expr"]):
                self.assertIn(name, recorded)

    def test_targets(self) -> None:
        """The table of objectives has the targets of the rules."""
        rows = re.findall(
            r"^   \* - (\w+)\n     - ([\d.]+) %(?: in ([\d.]+) s)?$", PAGE, re.MULTILINE
        )
        self.assertEqual([("availability", "99.9", ""), ("latency", "99", "0.5")], rows)
        text = (RULES / "slo.yml").read_text()
        budgets = {float(number) for number in re.findall(r"> [\d.]+ \* ([\d.]+)", text)}
        self.assertEqual({0.001, 0.01}, budgets)
        self.assertEqual(["0.5", "0.5"], re.findall(r'le="([\d.]+)"', text))

    def test_burn(self) -> None:
        """The days in the summaries follow from the factor of each rule."""
        days = {"two": 2, "five": 5}
        for rule in alerts():
            found = re.search(r"budget lasts (\w+) days", rule["annotations"]["summary"])
            if found is not None:
                factor = float(re.findall(r"> ([\d.]+) \*", rule["expr"])[0])
                self.assertEqual(days[found[1]], round(30 / factor), rule["alert"])


class Cases(SynchronousTestCase):
    """``tests.yml``, and ``promtool`` where it is installed."""

    def test_both(self) -> None:
        """Each alert has a case in which it fires, and one in which it does not."""
        cases = yaml.safe_load((RULES / "tests.yml").read_text())["tests"]
        found = [
            (test["alertname"], bool(test["exp_alerts"]))
            for case in cases
            for test in case["alert_rule_test"]
        ]
        expected = [(rule["alert"], fires) for rule in alerts() for fires in (True, False)]
        self.assertEqual(sorted(expected), sorted(found))

    def test_promtool(self) -> None:
        """The page's commands succeed."""
        if shutil.which("promtool") is None:
            raise SkipTest("promtool is not here")
        done = subprocess.run(
            ["bash", "-euc", block("operations/alerts", "promtool")],
            cwd=RULES, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
