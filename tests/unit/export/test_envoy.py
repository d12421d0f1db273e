"""Tests of :mod:`x509proxy.export.envoy`."""

from __future__ import annotations

import json
from typing import Any, cast

from tests.support.export_plans import (
    BACKENDS,
    VERIFYING,
    ExportTestCase,
    rendered,
)
from x509proxy.forwarding.presets import HeaderPlan
from x509proxy.settings import Backend, ClientAuth, Format, Trust


class Envoy(ExportTestCase):
    def document(self, **changes: Any) -> dict[str, Any]:
        text, _ = rendered("envoy", **changes)
        lines = [line for line in text.split("\n") if not line.startswith("#")]
        return cast("dict[str, Any]", json.loads("\n".join(lines))["static_resources"])

    def chain(self, **changes: Any) -> dict[str, Any]:
        (found,) = self.document(**changes)["listeners"][0]["filter_chains"]
        return cast("dict[str, Any]", found)

    def test_any(self) -> None:
        """Untrusted certificates are accepted, and the header is written from the handshake."""
        chain = self.chain()
        tls = chain["transport_socket"]["typed_config"]
        self.assertEqual(
            {"trust_chain_verification": "ACCEPT_UNTRUSTED"},
            tls["common_tls_context"]["validation_context"],
        )
        (host,) = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
        self.assertIn("X-My-Cert", host["request_headers_to_remove"])
        self.assertEqual(
            "%DOWNSTREAM_PEER_CERT%", host["request_headers_to_add"][0]["header"]["value"]
        )
        self.assertEqual(["*"], host["domains"])

    def test_xfcc(self) -> None:
        """Envoy's own header is written by Envoy."""
        plan = (HeaderPlan(Format.XFCC, b"X-Forwarded-Client-Cert"),)
        manager = self.chain(fields=plan, hosts=("a",))["filters"][0]["typed_config"]
        self.assertEqual("SANITIZE_SET", manager["forward_client_cert_details"])
        (host,) = manager["route_config"]["virtual_hosts"]
        self.assertEqual(([], ["a", "a:*"]), (host["request_headers_to_add"], host["domains"]))

    def test_modes(self) -> None:
        """Authorities with and without revocation lists, required, and none."""
        tls = self.chain(client_auth=ClientAuth.REQUIRED, **VERIFYING)["transport_socket"][
            "typed_config"
        ]
        self.assertTrue(tls["require_client_certificate"])
        self.assertEqual(
            {"filename": "/crl.pem"}, tls["common_tls_context"]["validation_context"]["crl"]
        )
        tls = self.chain(trust=Trust.CA, ca="/ca.pem")["transport_socket"]["typed_config"]
        self.assertNotIn("crl", tls["common_tls_context"]["validation_context"])
        tls = self.chain(client_auth=ClientAuth.NONE)["transport_socket"]["typed_config"]
        self.assertNotIn("validation_context", tls["common_tls_context"])

    def test_limits(self) -> None:
        """The limits name the clients that it treats alike, and the lists that it does not read."""
        either = rendered("envoy", trust=Trust.EITHER, ca="/ca.pem", crl=("/crl.pem",))[1]
        self.contains(either, "any certificate is forwarded", "revocation lists are not read")
        limits = rendered("envoy", **VERIFYING)[1]
        self.assertNotIn("any certificate", limits)
        self.assertNotIn("revocation", limits)

    def test_back_ends(self) -> None:
        """TLS and unix sockets."""
        (cluster,) = self.document(backends=(*BACKENDS, Backend.parse("unix:/s")))["clusters"]
        self.assertEqual("b.example", cluster["transport_socket"]["typed_config"]["sni"])
        ends = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        self.assertEqual({"pipe": {"path": "/s"}}, ends[2]["endpoint"]["address"])
