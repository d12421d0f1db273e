"""Promises of the handbook about logs, restarts and the status page."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from tests.support.exchanges import EXCHANGE, fields
from tests.support.snapshots import full_snapshot
from x509proxy.config.loader import load_settings
from x509proxy.exchange import Outcome
from x509proxy.monitoring.access_log_format import access_json, access_line
from x509proxy.monitoring.snapshot import (
    BackendState,
    CertificateState,
    ClientState,
    ListenerState,
    RefusalState,
    ReloadState,
    TokenState,
    WorkerState,
)
from x509proxy.monitoring.status_page.history import History, Sample
from x509proxy.monitoring.status_page.page import status_json
from x509proxy.service.access_log import _MAX_FORGERY_LINES
from x509proxy.settings import ProxySettings

HANDBOOK = Path(__file__).parents[2] / "docs" / "operations"
LOGS = (HANDBOOK / "logs.rst").read_text(encoding="utf-8")
_FIELD = re.compile(r"^``([^ `]+)`` +(string|number) ", re.MULTILINE)
_BLOCK = re.compile(
    r"^\.\. test: toml\n\n\.\. code-block:: toml\n\n((?:    .*\n|\n)+)", re.MULTILINE
)


class Blocks(SynchronousTestCase):
    def test_toml(self) -> None:
        """The proxy loads each block of TOML."""
        for page in ("logs", "drain-and-restart"):
            found = _BLOCK.findall((HANDBOOK / f"{page}.rst").read_text(encoding="utf-8"))
            self.assertEqual(1, len(found), page)
            path = Path(self.mktemp())
            path.write_text(re.sub(r"^    ", "", found[0], flags=re.MULTILINE))
            load_settings(str(path))


class Socket(SynchronousTestCase):
    def test_order(self) -> None:
        """The socket is not started while the service runs: the restart starts it."""
        page = (HANDBOOK / "drain-and-restart.rst").read_text(encoding="utf-8")
        self.assertEqual(
            ["systemctl daemon-reload", "systemctl enable x509proxy.socket"],
            re.findall(r"^    (systemctl .*)$", page, re.MULTILINE)[:2],
        )
        self.assertNotIn("enable --now", page)


class Fields(SynchronousTestCase):
    def test_all(self) -> None:
        """The table has every field of both formats, in their order, and no other."""
        named = [name for name, _ in _FIELD.findall(LOGS)]
        self.assertEqual(list(fields(access_line(EXCHANGE))), named)
        self.assertEqual(list(json.loads(access_json(EXCHANGE))), named)

    def test_kinds(self) -> None:
        """The type of each field in JSON is the table's; a string may also be ``null``."""
        found = json.loads(access_json(EXCHANGE))
        for name, kind in _FIELD.findall(LOGS):
            expected = (int, float) if kind == "number" else (str, type(None))
            self.assertIsInstance(found[name], expected, name)

    def test_outcomes(self) -> None:
        """The page describes every outcome."""
        for outcome in Outcome:
            self.assertIn(f"``{outcome.value}``:", LOGS)


class StatusPage(SynchronousTestCase):
    """The fields of ``/status.json``."""

    def test_fields(self) -> None:
        """The page has exactly the fields of the first level, and each row all fields below it."""
        page = (HANDBOOK / "status-page.rst").read_text(encoding="utf-8")
        listed = dict(re.findall(r"^``(\w+)``\n((?:    .*\n|\n(?=    ))+)", page, re.MULTILINE))
        shown: dict[str, Any] = json.loads(status_json(full_snapshot(), History()))
        parts: dict[str, type[msgspec.Struct]] = {
            "listeners": ListenerState,
            "backends": BackendState,
            "certificates": CertificateState,
            "refusals": RefusalState,
            "clients": ClientState,
            "reload": ReloadState,
            "workers": WorkerState,
            "tokens": TokenState,
            "history": Sample,
        }
        self.assertEqual(set(shown), set(listed))
        for name, part in parts.items():
            missing = {
                field for field in part.__struct_fields__ if f"``{field}``" not in listed[name]
            }
            self.assertEqual(set(), missing, name)


class Numbers(SynchronousTestCase):
    def test_defaults(self) -> None:
        """The defaults on the page are those of the settings."""
        [block] = _BLOCK.findall(LOGS)
        told = tomllib.loads(re.sub(r"^    ", "", block, flags=re.MULTILINE))
        settings = ProxySettings()
        self.assertEqual(
            (settings.max_logged_errors_per_second, settings.client.request_id.value),
            (told["max-logged-errors-per-second"], told["client"]["request-id"]),
        )
        self.assertIn(f"the first {_MAX_FORGERY_LINES} in each second", LOGS)
