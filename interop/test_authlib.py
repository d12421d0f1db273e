"""Authlib behind the proxy: an authorization server in Python that trusts ``Client-Cert``.

It runs under gunicorn with ``--header-map dangerous``, which reads ``Client_Cert`` as
``Client-Cert``: the most lenient reading of names. Packages: Authlib, Flask, gunicorn.
"""

from __future__ import annotations

from interop.arrivals import der
from interop.authlib_stage import AuthlibStage
from x509proxy.certificates.client_certificate import thumbprint


class Authlib(AuthlibStage):
    """``client_credentials`` with ``self_signed_tls_client_auth``."""

    def test_bound(self) -> None:
        """Clients with EC and RSA keys get tokens.

        Introspection shows that each is bound to its client's certificate.
        """
        for name, files in (("ec", self.ec), ("rsa", self.rsa)):
            status, content = self.token(name, files)
            self.assertEqual((200, "Bearer"), (status, content.get("token_type")), content)
            status, content = self.ask(
                "/introspect", files, token=content["access_token"], client_id=name
            )
            expected = {"x5t#S256": thumbprint(der(files.made))}
            self.assertEqual((200, True, expected), (status, content["active"], content["cnf"]))

    def test_others(self) -> None:
        """Another client's certificate, one that is not registered, and none are rejected."""
        for client in (self.rsa, self.client(common_name="ec"), None):
            self.refused(self.token("ec", client))

    def test_introspection_by_another(self) -> None:
        """Introspection reveals nothing to a client that the token was not issued to."""
        token = self.token("ec", self.ec)[1]["access_token"]
        self.assertEqual(
            (200, {"active": False}),
            self.ask("/introspect", self.rsa, token=token, client_id="rsa"),
        )
        self.refused(self.ask("/introspect", self.rsa, token=token, client_id="ec"))

    def test_forged(self) -> None:
        """A forged header gives no client another's identity, in any spelling."""
        for fields in self.forged("Client-Cert"):
            self.refused(self.token("ec", None, *fields))
            self.refused(self.token("ec", self.rsa, *fields))
            self.assertEqual(200, self.token("rsa", self.rsa, *fields)[0])

    def test_past_the_proxy(self) -> None:
        """Past the proxy each spelling works: so the rejections above are the proxy's work."""
        once = [fields for fields in self.forged("Client-Cert") if len(fields) == 1]
        self.assertEqual(
            [200] * len(once), [self.past_the_proxy("ec", *fields)[0] for fields in once]
        )
        self.refused(self.past_the_proxy("ec"))
