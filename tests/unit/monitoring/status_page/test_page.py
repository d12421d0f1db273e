"""Tests of :mod:`x509proxy.monitoring.status_page.page`."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from tests.support.html import HtmlReader
from tests.support.snapshots import DOWN, UP, snapshot
from tests.support.status_pages import page, pills
from x509proxy.monitoring.snapshot import (
    ReloadState,
    Snapshot,
)
from x509proxy.monitoring.status_page.history import History
from x509proxy.monitoring.status_page.page import CONTENT_SECURITY_POLICY, status_json


class Document(SynchronousTestCase):
    def test_policy(self) -> None:
        """The one style and the one script are those of the policy.

        There are no others, and no attribute that would need one.
        """
        document = page(snapshot())
        for name in ("style", "script"):
            [text] = re.findall(f"<{name}>(.*?)</{name}>", document, re.DOTALL)
            digest = b64encode(hashlib.sha256(text.encode()).digest()).decode()
            self.assertIn(f"{name}-src 'sha256-{digest}'", CONTENT_SECURITY_POLICY)
        attributes = {name for _, fields in HtmlReader(document).elements for name in fields}
        self.assertEqual(
            set(), {name for name in attributes if name == "style" or name.startswith("on")}
        )
        self.assertIn("default-src 'none'", CONTENT_SECURITY_POLICY)

    def test_nothing_from_elsewhere(self) -> None:
        """The page alone is fetched, and every link leads to the listener's own paths."""
        found = HtmlReader(page(snapshot())).elements
        self.assertEqual([], [fields for _, fields in found if "src" in fields])
        links = [fields["href"] for _, fields in found if "href" in fields]
        self.assertEqual(["/status.json", "/metrics", "/healthz", "/readyz"], links)

    def test_without_script(self) -> None:
        """Where no script runs, the page loads itself anew."""
        self.assertIn(
            '<noscript><meta http-equiv="refresh" content="5"/></noscript>', page(snapshot())
        )

    def test_state(self) -> None:
        """The state is a word beside the name."""
        for changes, expected in (
            ({}, ("serving", "good")),
            ({"backends": (UP, DOWN)}, ("serving, 1 back end down", "warn")),
            ({"backends": (UP, DOWN, DOWN)}, ("serving, 2 back ends down", "warn")),
            ({"backends": (DOWN,)}, ("no back end is up", "bad")),
            ({"draining": True}, ("draining", "warn")),
        ):
            self.assertEqual(expected, pills(page(snapshot(**changes)))[0])

    def test_reload(self) -> None:
        """A reload that failed is shown at the top, with its sentence, until one succeeds."""
        failed = ReloadState(loaded=1.0, failed=3600.0, error="ca: <none>")
        self.assertIn(
            "The reload at 01:00:00 failed; the old configuration stays in use. ca: &lt;none&gt;",
            page(snapshot(reload=failed)),
        )
        self.assertNotIn(
            "reload at", page(snapshot(reload=msgspec.structs.replace(failed, error="")))
        )

    def test_restart_needed(self) -> None:
        """A reload that could not read everything again has its sentence at the top."""
        kept = ReloadState(loaded=1.0, note="ca: restart <needed>")
        self.assertIn("Last reload: ca: restart &lt;needed&gt;", page(snapshot(reload=kept)))


class Json(SynchronousTestCase):
    def test_fields(self) -> None:
        """JSON has each field of the snapshot, readiness, the quantiles and the history."""
        history = History()
        history.add(snapshot(taken=99.0))
        history.add(snapshot())
        found = json.loads(status_json(snapshot(), history))
        self.assertEqual(
            {*Snapshot.__struct_fields__, "ready", "p50", "p95", "history"}, set(found)
        )
        self.assertEqual((True, None, 1), (found["ready"], found["p50"], len(found["history"])))
