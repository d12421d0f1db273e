"""Promises of ``contrib/access-log.schema.json``: each line of the access log in JSON fits it."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from tests.support.pages import ROOT, read_page
from tests.support.sample_exchange import sample_exchange
from x509proxy.certificates.client_certificate import Verdict
from x509proxy.exchange import Exchange, Outcome, TokenVerdict
from x509proxy.http1.errors import Code
from x509proxy.monitoring.access_log_format import access_json

EXCHANGE = sample_exchange()
SCHEMA = json.loads((ROOT / "contrib" / "access-log.schema.json").read_text())
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def faults(name: str, value: Any) -> list[str]:
    """Return the words of the schema that a value of a field breaks."""
    rule = SCHEMA["properties"][name]
    words = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
    allowed = tuple(kind for word in words for kind in _TYPES[word])
    broken = [] if isinstance(value, allowed) else ["type"]
    if "enum" in rule and value not in rule["enum"]:
        broken.append("enum")
    if isinstance(value, str) and not re.search(rule.get("pattern", ""), value):
        broken.append("pattern")
    if isinstance(value, int | float) and not rule["minimum"] <= value <= rule.get(
        "maximum", value
    ):
        broken.append("bounds")
    return broken


class Schema(SynchronousTestCase):
    def check(self, exchange: Exchange) -> None:
        """Check that a line has the fields of the schema in its order, and each value fits."""
        line = json.loads(access_json(exchange))
        self.assertEqual([*SCHEMA["properties"]], [*line])
        self.assertEqual([*line], SCHEMA["required"])
        found = {name: faults(name, value) for name, value in line.items()}
        self.assertEqual({}, {name: broken for name, broken in found.items() if broken})

    def test_lines(self) -> None:
        """Exchanges of every kind fit: each outcome, code and verdict, and one without any."""
        self.check(EXCHANGE)
        self.check(msgspec.structs.replace(EXCHANGE, certificate=None))
        for outcome in Outcome:
            self.check(msgspec.structs.replace(EXCHANGE, outcome=outcome))
        for code in Code:
            self.check(msgspec.structs.replace(EXCHANGE, code=code))
        for token in TokenVerdict:
            self.check(msgspec.structs.replace(EXCHANGE, token=token))
        for version in ("", "TLSv1.2", "TLSv1.3"):
            self.check(msgspec.structs.replace(EXCHANGE, tls_version=version))
        self.check(
            msgspec.structs.replace(
                EXCHANGE, request_id="", peer="", method="", target="", status=0, backend=""
            )
        )

    def test_words(self) -> None:
        """The lists of words are complete, and have no further one."""
        properties = SCHEMA["properties"]
        self.assertEqual([one.value for one in Outcome], properties["outcome"]["enum"])
        self.assertEqual([one.value for one in Verdict], properties["verdict"]["enum"])
        tokens = [one.value for one in TokenVerdict if one is not TokenVerdict.UNCHECKED]
        self.assertEqual([*tokens, None], properties["token_verdict"]["enum"])

    def test_described(self) -> None:
        """Each field has a description, and the schema its version."""
        self.assertTrue(all(rule["description"] for rule in SCHEMA["properties"].values()))
        self.assertRegex(SCHEMA["title"], r"access log, version \d+\Z")
        self.assertIn("``contrib/access-log.schema.json``", read_page("operations/upgrades"))
        self.assertNotIn("additionalProperties", SCHEMA)
