"""Promises of :mod:`x509proxy.forwarding.path_rules`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.unit.certificates.test_pem_files import NAME
from x509proxy.forwarding.path_rules import requirement_for
from x509proxy.http1.errors import HttpError
from x509proxy.http1.messages import Framing, RequestHead
from x509proxy.http1.request_target import normalized_paths
from x509proxy.settings import (
    CertificateRequirement,
    ClientAuth,
    PolicySettings,
    RuleSettings,
    SettingsError,
)

TOKEN = RuleSettings(path="/token", client_certificate=CertificateRequirement.REQUIRED)
LOGIN = RuleSettings(path="/login", client_certificate=CertificateRequirement.IGNORED)


def head(target: str, host: str = "as.example.com") -> RequestHead:
    return RequestHead(
        b"GET", target.encode(), "1.1", (), host.encode(), Framing.NONE, keep_alive=True
    )


def need(
    target: str, *rules: RuleSettings, host: str = "as.example.com", asked: ClientAuth | None = None
) -> CertificateRequirement:
    return requirement_for(head(target, host), PolicySettings(rules=rules), asked)


class Rules(SynchronousTestCase):
    def test_prefix(self) -> None:
        """A rule holds for its path and all below it, not for what merely begins with the same letters."""
        for target in ("/token", "/token?a=b", "/token/", "/token/introspect", "/token?/login"):
            self.assertIs(CertificateRequirement.REQUIRED, need(target, TOKEN, LOGIN), target)
        for target in ("/", "/tokens", "/tok", "/a/token", "/?/token", "*"):
            self.assertIs(CertificateRequirement.OPTIONAL, need(target, TOKEN, LOGIN), target)

    def test_longest_first(self) -> None:
        """The longest path wins, in whatever order the rules stand."""
        below = RuleSettings(
            path="/token/public", client_certificate=CertificateRequirement.IGNORED
        )
        for rules in ((TOKEN, below), (below, TOKEN)):
            self.assertIs(CertificateRequirement.IGNORED, need("/token/public/keys", *rules))
            self.assertIs(CertificateRequirement.REQUIRED, need("/token/publicity", *rules))

    def test_everything(self) -> None:
        """A rule without a path holds for every one, ``*`` too."""
        everything = RuleSettings(client_certificate=CertificateRequirement.REQUIRED)
        for target in ("/", "/a", "*"):
            self.assertIs(CertificateRequirement.REQUIRED, need(target, everything))
        self.assertIs(CertificateRequirement.IGNORED, need("/login", everything, LOGIN))

    def test_server_name(self) -> None:
        """A rule for a name holds whatever its case, port and last dot; of two with the same path it comes first."""
        named = RuleSettings(
            server_name="mtls.example.com", client_certificate=CertificateRequirement.REQUIRED
        )
        general = RuleSettings(client_certificate=CertificateRequirement.IGNORED)
        for host in (
            "mtls.example.com",
            "MTLS.example.com:8443",
            "mtls.example.com.",
            "mtls.example.com.:8443",
        ):
            self.assertIs(CertificateRequirement.REQUIRED, need("/", named, general, host=host))
            self.assertIs(CertificateRequirement.REQUIRED, need("/", general, named, host=host))
        for host in ("as.example.com", "mtls.example.com.evil.example", "xmtls.example.com", ""):
            self.assertIs(CertificateRequirement.IGNORED, need("/", named, general, host=host))

    def test_ipv6(self) -> None:
        """A name may be an address in brackets."""
        rule = RuleSettings(server_name="[::1]", client_certificate=CertificateRequirement.REQUIRED)
        self.assertIs(CertificateRequirement.REQUIRED, need("/", rule, host="[::1]:8443"))

    def test_case(self) -> None:
        """A rule written in capitals holds as well."""
        rule = RuleSettings(
            path="/OAuth2/Token", client_certificate=CertificateRequirement.REQUIRED
        )
        self.assertIs(CertificateRequirement.REQUIRED, need("/OAuth2/Token", rule))

    def test_without_rules(self) -> None:
        """Without a rule it is the setting that decides, and before it what the request's own listener asks for."""
        expected = {
            ClientAuth.NONE: CertificateRequirement.IGNORED,
            ClientAuth.OPTIONAL: CertificateRequirement.OPTIONAL,
            ClientAuth.REQUIRED: CertificateRequirement.REQUIRED,
        }
        for word, wanted in expected.items():
            for other in ClientAuth:
                self.assertIs(
                    wanted, requirement_for(head("/"), PolicySettings(client_certificate=word))
                )
                self.assertIs(
                    wanted,
                    requirement_for(head("/"), PolicySettings(client_certificate=other), word),
                )

    def test_rules_before_the_listener(self) -> None:
        """What a path needs it needs on every listener: on one that does not ask it cannot be had."""
        self.assertIs(CertificateRequirement.REQUIRED, need("/token", TOKEN, asked=ClientAuth.NONE))


class Kindness(SynchronousTestCase):
    def test_spellings(self) -> None:
        """However the path is spelled, it needs what the path needs."""
        spellings = (
            "//token", "/./token", "/a/../token", "/%74oken", "/TOKEN", "/token;x=y", "/;x/token", "/..;/token", "/%2e%2e/token",
            "/a%2f..%2ftoken", "\\token", "/%5ctoken", "/token%3bx", "/token/%2e", "/%2Ftoken", "/token.", "/token%20",
            "/token%00", "/token%09", "/token:$data", "/%u0074oken", "/%2574oken", "/x/%252e%252e/token",
        )  # fmt: skip
        for target in spellings:
            self.assertIs(CertificateRequirement.REQUIRED, need(target, TOKEN), target)


class Detours(SynchronousTestCase):
    def test_both_ways(self) -> None:
        """A detour through a path needs what that path needs too: there are servers that do not resolve it."""
        for target in ("/token/../other", "/token/a/../../other", "/other/../token"):
            self.assertIs(CertificateRequirement.REQUIRED, need(target, TOKEN), target)
        self.assertIs(CertificateRequirement.IGNORED, need("/login/../other", TOKEN, LOGIN))

    def test_contradiction(self) -> None:
        """Where one reading needs a certificate, and by another there must be none, the request is refused."""
        for target in ("/token/../login", "/login/../token", "/login/a/../../token"):
            self.assertEqual(
                400, self.assertRaises(HttpError, need, target, TOKEN, LOGIN).response.status
            )


class Paths(SynchronousTestCase):
    def test_matched(self) -> None:
        """Whatever path a rule may have, a request for it and one for what is below it are under that rule."""
        for path in ("/", "/a.b/..c", "/v1/tokens:introspect", "/~me/$x/a:b:", "/A/b'(c)!+,=@_-&"):
            rule = RuleSettings(path=path, client_certificate=CertificateRequirement.REQUIRED)
            self.assertIs(CertificateRequirement.REQUIRED, need(path, rule), path)
            self.assertIs(CertificateRequirement.REQUIRED, need(path + "/below", rule), path)


class Mistakes(SynchronousTestCase):
    def test_path(self) -> None:
        """A path that no request could match, or that would not say what it means, is a mistake."""
        for path in (
            "", "token", "/token/", "//", "/a//b", "/a/../b", "/.", "/a?b", "/a;b", "/%74oken", "/a b", "/\u00e9", "/a.", "/a./b",
            "/...", "/a:$b", "/a/b::$DATA", "/a;", "/token*", "*", "/*", "/token.*", "/a#b", "/a\\b", "/a\n", "/^token", "/(a|b)",
        ):  # fmt: skip
            with self.assertRaises(SettingsError, msg=path) as raised:
                RuleSettings(path=path, client_certificate=CertificateRequirement.REQUIRED)
            self.assertIn("path: found ", str(raised.exception))

    @given(
        st.text(alphabet="/token*?#%\\; .~!$&'()+,=:@-_A1\n\u00e9|^", max_size=8)
        | st.text(max_size=5)
    )
    def test_every_path_can_match(self, path: str) -> None:
        """What is taken for a rule's path is what the kindest reader makes of a request for it."""
        for text in (path, f"/{path}"):
            try:
                rule = RuleSettings(path=text, client_certificate=CertificateRequirement.REQUIRED)
            except SettingsError:
                continue
            self.assertEqual(text.lower(), normalized_paths(text.encode())[0])
            self.assertIs(CertificateRequirement.REQUIRED, need(text, rule))

    def test_silent(self) -> None:
        """A secret name that was pasted where a path or a name belongs is not told."""
        for mistake in ({"path": NAME}, {"path": f"/{NAME}*"}, {"server_name": NAME}):
            with self.assertRaises(SettingsError) as raised:
                RuleSettings(client_certificate=CertificateRequirement.REQUIRED, **mistake)
            self.assertNotIn(NAME, str(raised.exception))

    def test_server_name(self) -> None:
        """A name is in lower case, without a port."""
        for name in (
            "",
            "A.example",
            "a:443",
            "a b",
            "https://a",
            "a.example.",
            "*.example",
            ".a",
            "a..b",
        ):
            with self.assertRaises(SettingsError, msg=name) as raised:
                RuleSettings(server_name=name, client_certificate=CertificateRequirement.REQUIRED)
            self.assertIn("server-name: found ", str(raised.exception))
