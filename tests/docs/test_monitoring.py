"""Promises of ``contrib/prometheus`` and ``contrib/grafana``: they query existing series."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.support.snapshots import full_snapshot
from x509proxy.monitoring.prometheus import exposition

ROOT = Path(__file__).parents[2]
RULES = ROOT / "contrib" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "contrib" / "grafana" / "dashboard.json"
PAGE = ROOT / "docs" / "operations" / "metrics.rst"


def series() -> dict[str, set[str]]:
    """Return each existing series and its labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exposition(full_snapshot())[1].decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each series that an expression queries, and the labels of its selector."""
    for name, selector in re.findall(r"\b(x509proxy_\w+)(?:\{([^}]*)\})?", expression):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    return found


def expressions() -> Iterator[str]:
    """Return the queries of all panels and variables."""
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


class Series(SynchronousTestCase):
    def check(self, texts: list[str]) -> None:
        there = series()
        for text in texts:
            for name, labels in asked(text):
                self.assertIn(name, there, text)
                self.assertLessEqual(labels - {"job", "instance"}, there[name], text)

    def test_rules(self) -> None:
        """Every rule queries existing series and labels."""
        self.check([rule["expr"] for rule in rules()])

    def test_dashboard(self) -> None:
        """Every panel queries existing series and labels too."""
        found = [*expressions()]
        self.assertGreater(len(found), 20)
        self.check(found)

    def test_handbook(self) -> None:
        """The handbook has every family, and no other; and every rule."""
        page = PAGE.read_text()
        there = {re.sub(r"_(bucket|sum|count)$", "", name) for name in series()}
        self.assertEqual(there, set(re.findall(r"^``(x509proxy_\w+)``", page, re.MULTILINE)))
        self.assertEqual(
            [rule["alert"] for rule in rules()],
            re.findall(r"^``(X509Proxy\w+)``", page, re.MULTILINE),
        )

    def test_rule(self) -> None:
        """Every rule has a severity, and states the fault and its place."""
        for rule in rules():
            self.assertIn(rule["labels"]["severity"], ("warning", "critical"))
            self.assertIn("{{ $labels.instance }}", rule["annotations"]["summary"])

    def test_panels(self) -> None:
        """No two panels lie over each other, and none outside of the grid."""
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(DASHBOARD.read_text())["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            self.assertEqual(
                (set(), True), (cells & taken, max(x for x, _ in cells) < 24), panel["title"]
            )
            taken |= cells


class Promtool(SynchronousTestCase):
    def run_promtool(self, *arguments: str, given: bytes = b"") -> None:
        command = shutil.which("promtool")
        if command is None:
            raise SkipTest("promtool is not here")
        done = subprocess.run(
            [command, *arguments], input=given, capture_output=True, timeout=30, check=False
        )
        self.assertEqual(
            (0, b""), (done.returncode, done.stderr), (done.stdout + done.stderr).decode()
        )

    def test_rules(self) -> None:
        """Prometheus takes the rules."""
        self.run_promtool("check", "rules", str(RULES))

    def test_metrics(self) -> None:
        """Prometheus' own check of names and help texts reports nothing."""
        self.run_promtool("check", "metrics", given=exposition(full_snapshot())[1])
