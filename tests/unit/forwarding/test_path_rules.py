"""Tests of :mod:`x509proxy.forwarding.path_rules`."""

from __future__ import annotations

import unicodedata
from typing import Any
from urllib.parse import quote

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.names import NAME
from tests.support.path_readers import READERS
from x509proxy.forwarding.path_rules import requirement_for, token_requirement_for
from x509proxy.http1.errors import Code, HttpError
from x509proxy.http1.messages import Framing, RequestHead
from x509proxy.http1.path_readings import normalized_paths
from x509proxy.http1.request_target import read_target
from x509proxy.settings import (
    CertificateRequirement,
    ClientAuth,
    PolicySettings,
    RuleSettings,
    SettingsError,
    TokenRequirement,
)

TOKEN = RuleSettings(path="/token", client_certificate=CertificateRequirement.REQUIRED)
LOGIN = RuleSettings(path="/login", client_certificate=CertificateRequirement.IGNORED)


def head(target: str, host: str = "as.example.com") -> RequestHead:
    return RequestHead(
        b"GET", target.encode(), "1.1", (), host.encode(), Framing.NONE, keep_alive=True
    )


def need(
    target: str,
    *rules: RuleSettings,
    host: str = "as.example.com",
    client_auth: ClientAuth | None = None,
) -> CertificateRequirement:
    return requirement_for(head(target, host), PolicySettings(rules=rules), client_auth)


class Rules(SynchronousTestCase):
    def test_prefix(self) -> None:
        """A rule holds for its path and all below it.

        A path that only begins with the same letters is different.
        """
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
        """A rule for a server name ignores case, port and a final dot.

        It precedes a rule for all names with the same path.
        """
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
        """Without a rule the setting decides, or that of the request's listener."""
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
        """A rule holds on every listener.

        One that requests no certificate cannot fulfil a rule that requires one.
        """
        self.assertIs(
            CertificateRequirement.REQUIRED, need("/token", TOKEN, client_auth=ClientAuth.NONE)
        )


CLOSED = RuleSettings(
    path="/api",
    client_certificate=CertificateRequirement.REQUIRED,
    token=TokenRequirement.BOUND,
)
PREFLIGHT = RuleSettings(
    path="/api",
    methods=("OPTIONS",),
    client_certificate=CertificateRequirement.OPTIONAL,
    token=TokenRequirement.IGNORED,
)


class Methods(SynchronousTestCase):
    """Rules with methods, which open preflights and nothing else."""

    def need(
        self,
        method: str,
        *rules: RuleSettings,
        target: str = "/api/x",
        fields: tuple[tuple[bytes, bytes], ...] = (),
    ) -> tuple[CertificateRequirement, TokenRequirement]:
        request = RequestHead(
            method.encode(), target.encode(), "1.1", fields, b"as.example.com", Framing.NONE
        )
        policy = PolicySettings(rules=rules)
        return requirement_for(request, policy), token_requirement_for(request, policy)

    def assert_open(self, method: str, **more: Any) -> None:
        for rules in ((CLOSED, PREFLIGHT), (PREFLIGHT, CLOSED)):
            self.assertEqual(
                (CertificateRequirement.OPTIONAL, TokenRequirement.IGNORED),
                self.need(method, *rules, **more),
            )

    def assert_closed(self, method: str, **more: Any) -> None:
        for rules in ((CLOSED, PREFLIGHT), (PREFLIGHT, CLOSED)):
            self.assertEqual(
                (CertificateRequirement.REQUIRED, TokenRequirement.BOUND),
                self.need(method, *rules, **more),
                (method, more),
            )

    def test_preflight(self) -> None:
        """The method of the rule is open, and each other one has the rule for all methods."""
        self.assert_open("OPTIONS", fields=((b"Access-Control-Request-Method", b"POST"),))
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "options", "OPTION"):
            self.assert_closed(method)

    def test_spellings(self) -> None:
        """Another spelling of the path is not opened."""
        for target in ("/API/x", "/%61pi/x", "/api;x", "/api.json"):
            self.assert_closed("OPTIONS", target=target)

    def test_overrides(self) -> None:
        """A request that a server may take for one with another method is not opened."""
        for name in (
            b"X-HTTP-Method-Override",
            b"x-http-method",
            b"X-Method-Override",
            b"X_HTTP_Method_Override",
        ):
            self.assert_closed("OPTIONS", fields=((name, b"POST"),))
        for query in ("_method=POST", "a=1&_method=put", "%5Fmethod=POST", "_METHOD=POST"):
            self.assert_closed("OPTIONS", target=f"/api/x?{query}")
        self.assert_open("OPTIONS", target="/api/x?method=POST")

    def test_required_for_some(self) -> None:
        """A requirement for some methods holds for them, for HEAD beside GET, and for unknown."""
        rule = RuleSettings(
            path="/api",
            methods=("GET", "DELETE"),
            client_certificate=CertificateRequirement.REQUIRED,
        )
        for method in ("GET", "HEAD", "DELETE", "get", "FOO", "PROPFIND"):
            self.assertIs(CertificateRequirement.REQUIRED, self.need(method, rule)[0], method)
        for method in ("POST", "PUT", "OPTIONS"):
            self.assertIs(CertificateRequirement.OPTIONAL, self.need(method, rule)[0], method)
        fields = ((b"X-HTTP-Method-Override", b"DELETE"),)
        found = self.need("POST", rule, fields=fields)[0]
        self.assertIs(CertificateRequirement.REQUIRED, found)

    def test_mistakes(self) -> None:
        """A method that cannot be in a rule is named; overlapping rules are an error."""
        for method in ("get", "TRACE", "*", ""):
            error = self.assertRaises(
                SettingsError,
                RuleSettings,
                methods=(method,),
                client_certificate=CertificateRequirement.REQUIRED,
            )
            self.assertIn(f"methods: found {method!r}, expected some of GET, ", str(error))
        again = RuleSettings(path="/api", methods=("GET", "OPTIONS"), token=TokenRequirement.BOUND)
        error = self.assertRaises(SettingsError, PolicySettings, rules=(PREFLIGHT, again))
        self.assertIn("rules: found two for the same path, server name and method", str(error))


class Spellings(SynchronousTestCase):
    def test_lenient(self) -> None:
        """A path needs what its rule requires in every spelling of it."""
        for target in (
            "/./token", "/a/../token", "/%74oken", "/TOKEN", "/token;x=y", "/;x/token",
            "/a%2f..%2ftoken", "/token%3bx",
            "/token/%2e", "/token.", "/token%20", "/token::$data", "/token/", "/token//",
            "/to%E2%84%AAen", "/%EF%BD%94oken",
            "/tok%C4%99n", "/token.json", "/token.x.y", "/token,x", "/token&x", "/token%26x",
            "/token:x", "/token~1",
            "/index.php/token", "/x/app.php/token", "/x.cgi/token", "/token%C2%A0",
            "/%E2%80%83token", "/token%C3%A9",
            "/token;jsessionid=x", "/token!", "/token@x", "/token=x", "/token+x", "/token'",
            "/token(x)",
        ):  # fmt: skip
            self.assertIs(CertificateRequirement.REQUIRED, need(target, TOKEN, LOGIN), target)

    def test_ambiguous(self) -> None:
        """An ambiguous target is 400 where rules differ, with a certificate and without one."""
        for target in (
            "//x/token", "//token", "/\\x/token", "/tok%ffen", "/%a0token", "/tok%85en",
            "/tok%c0%afen", "/token%3f",
            "/token%3fx", "/token%23", "/%2574oken", "/%u0074oken", "/token%00", "/token%09",
            "/%5ctoken", "/tok%C2%ADen",
            "/a/..//token", "/(S(x))/token", "/harmless%ff", "//", "/login%ff",
        ):  # fmt: skip
            for rules in ((TOKEN,), (LOGIN,), (TOKEN, LOGIN)):
                self.assert_rejected(target, *rules)

    def test_nothing_depends_on_it(self) -> None:
        """No target is rejected for its spelling if no rule depends on it.

        There are no rules, rules for another name, or all require the same.
        """
        elsewhere = RuleSettings(
            server_name="mtls.example.com", client_certificate=CertificateRequirement.REQUIRED
        )
        for target in ("//x/token", "/tok%ffen", "/token%3f", "/(S(x))/token"):
            self.assertIs(CertificateRequirement.OPTIONAL, need(target))
            self.assertIs(CertificateRequirement.OPTIONAL, need(target, elsewhere))
            self.assertIs(
                CertificateRequirement.REQUIRED,
                need(target, TOKEN, client_auth=ClientAuth.REQUIRED),
            )
            self.assert_rejected(target, elsewhere, host="mtls.example.com")

    def assert_rejected(
        self, target: str, *rules: RuleSettings, host: str = "as.example.com"
    ) -> None:
        error = self.assertRaises(HttpError, need, target, *rules, host=host)
        self.assertIs(Code.AMBIGUOUS_PATH, error.response.code, target)


class Opening(SynchronousTestCase):
    """Rules that open paths where all others require a certificate: the safe form."""

    def required(self, target: str, *rules: RuleSettings) -> CertificateRequirement | None:
        """Return the requirement; ``None`` for a request that is rejected."""
        try:
            return need(target, *rules, client_auth=ClientAuth.REQUIRED)
        except HttpError:
            return None

    def test_spelled(self) -> None:
        """The rule's own spelling opens its path and all below it, whatever is written below."""
        for target in (
            "/login", "/login/", "/login/x", "/login?a", "/login/caf%C3%A9", "/login/a%20b",
            "/login//x", "/login/x;y",
            "/login/x.json", "/login/./x", "/login/%2fx",
        ):  # fmt: skip
            self.assertIs(CertificateRequirement.IGNORED, self.required(target, LOGIN), target)

    def test_other_spellings(self) -> None:
        """No other spelling does, nor does a path that leads out of it."""
        for target in (
            "/LOGIN", "/%6cogin", "/login;x", "/login;/x", "/login%2fx", "/./login", "/x/../login",
            "/login/..", "/login/../x",
            "/login.html", "/login.", "/login%20", "//login", "/login%2f", "/index.php/login",
            "/log%C4%B1n", "/login/%ff",
            "/login&x", "/login:x", "/x", "/", "/loginx", "/login-x", "/login/%3f", "/login%C3%A9",
        ):  # fmt: skip
            self.assertIsNot(CertificateRequirement.IGNORED, self.required(target, LOGIN), target)

    def test_optional(self) -> None:
        """Where a rule opens by ``optional``, other spellings require the certificate.

        They are not rejected for the spelling.
        """
        rule = RuleSettings(path="/login", client_certificate=CertificateRequirement.OPTIONAL)
        self.assertIs(CertificateRequirement.OPTIONAL, self.required("/login/x", rule))
        for target in ("/LOGIN", "/login;x", "/login.html", "/x/../login", "/login/../x", "/x"):
            self.assertIs(CertificateRequirement.REQUIRED, self.required(target, rule), target)

    def test_below_a_rule(self) -> None:
        """An odd spelling of an open path keeps the requirements above it."""
        public = RuleSettings(
            path="/token/public", client_certificate=CertificateRequirement.OPTIONAL
        )
        self.assertIs(CertificateRequirement.OPTIONAL, need("/token/public/x", TOKEN, public))
        for target in ("/token/PUBLIC", "/TOKEN/public;x", "/token/%70ublic", "/token/public.x"):
            self.assertIs(CertificateRequirement.REQUIRED, need(target, TOKEN, public), target)

    def test_required_below(self) -> None:
        """Every spelling of a path that requires a certificate below an open one is protected.

        It requires the certificate or is rejected.
        """
        rule = RuleSettings(path="/login/admin", client_certificate=CertificateRequirement.REQUIRED)
        for target in ("/login/ADMIN", "/login/admin.x", "/login/%61dmin", "/login/x.php/../admin"):
            self.assertIsNot(CertificateRequirement.IGNORED, self.required(target, LOGIN, rule))
        self.assertIs(CertificateRequirement.IGNORED, self.required("/login/adminx", LOGIN, rule))

    def test_named_file(self) -> None:
        """A rule of its own for a name with a suffix holds, whatever the name without it needs."""
        page = RuleSettings(path="/token.html", client_certificate=CertificateRequirement.IGNORED)
        self.assertIs(CertificateRequirement.IGNORED, need("/token.html", TOKEN, page))
        self.assertIs(CertificateRequirement.REQUIRED, need("/token.css", TOKEN, page))


_ODD = st.sampled_from(
    [
        "", "", "", "%ff", "%a0", "%85", "%c0%af", "%c1%a5", "%C2%AD", "%E2%80%8B", "%00", "%09",
        "%3f", "%23", "%25", "%2574",
        "%u0074", "%C3%A9", "%CC%81", "%EF%B8%8F", "%E3%85%A4", ";x", ";", "%3b", ".", "%2e", "%20",
        "%C2%A0", "::$DATA", "&x", ",",
        "%26", "~", "'", "%EF%BC%8F", "%E2%88%95", "%5c", "\\", "/", "//", "%2f", ".json", ".php/",
        "/..", "/.", "(S(x))", "x", "-",
    ]
)  # fmt: skip
_LETTERS = {
    "t": ["t", "T", "%74", "%54", "%EF%BD%94", "%C5%A7", "%2574", "%u0074"],
    "o": ["o", "O", "%6f", "%C2%BA", "%C5%8D", "%C3%B8"],
    "k": ["k", "K", "%6B", "%E2%84%AA", "%C4%B7"],
    "e": ["e", "E", "%65", "%C4%99", "e%CC%81"],
    "n": ["n", "N", "%6e", "%C5%84", "%E2%81%BF"],
}
_PREFIXES = st.sampled_from(
    [
        "/", "/", "/", "//", "///", "//x/", "/\\x/", "\\", "/%5cx/", "/%2f/", "/./", "/.//x/",
        "/x/../", "/x/..//y/", "/;x/",
        "/index.php/", "/app.php/", "/(S(x))/", "/(A(x)S(y))/", "/%20/", "/%2e/", "/..;/", "/%ff/",
        "/x%2f..%2f", "/%EF%BC%8F",
        "/login/../", "/login/", "/login/..%2f", "/login;/../", "/LOGIN/../",
    ]
)  # fmt: skip
_SUFFIXES = st.sampled_from(
    [
        "", "", "", "?x", "/", "//", "/x", ";x", "%3bx", ".", "..", "%20", "%00", "%00x", "%3f",
        "%3fx", "%23x", ".json", ".x.y",
        "&x", "%26x", ":x", "::$DATA", ":$x", ",x", "%ff", "%C2%A0", "%E2%80%8B", "%5c", "/.",
        "/./", "/x/..", "/%2e%2e/token",
        "/../login", "\\x", "%EF%BC%9Fx", "%09", "%0a", "%u003f",
    ]
)  # fmt: skip


@st.composite
def _targets(draw: st.DrawFn) -> str:
    word = draw(st.sampled_from(["token", "token", "login"]))
    spelled = "".join(
        draw(_ODD if draw(st.integers(0, 9)) == 0 else st.just(""))
        + draw(st.sampled_from(_LETTERS.get(letter, [letter, letter.upper(), f"%{ord(letter):x}"])))
        for letter in word
    )
    return draw(_PREFIXES) + spelled + draw(_SUFFIXES)


class Readers(SynchronousTestCase):
    """Against models of real servers: none of them is reached past a rule."""

    def outcome(self, target: str, client_auth: ClientAuth, *rules: RuleSettings) -> object:
        """Return the requirement of a target that gets as far as the rules; ``None`` for 400."""
        try:
            origin, _ = read_target(b"GET", target.encode(), b"as.example.com")
            return requirement_for(head(origin.decode()), PolicySettings(rules=rules), client_auth)
        except HttpError:
            return None

    @given(_targets())
    @example("//x/token")
    @example("/\\x/token")
    @example("/tok%ffen")
    @example("/%a0token")
    @example("/tok%85en")
    @example("/tok%c0%afen")
    @example("/token%3f")
    @example("/token%3fx")
    @example("/to%E2%84%AAen")
    @example("/tok%C2%ADen")
    @example("/index.php/token")
    @example("/(S(x))/token")
    @example("/token.json")
    @example("/token&x")
    @example("/tok%C3%A9en")
    def test_required(self, target: str) -> None:
        """A target that any of them routes to the path needs what the path requires, or is 400."""
        for client_auth in (ClientAuth.OPTIONAL, ClientAuth.NONE):
            outcome = self.outcome(target, client_auth, TOKEN, LOGIN)
            if outcome in (None, CertificateRequirement.REQUIRED):
                continue
            for reader in READERS:
                self.assertFalse(
                    _is_below("/token", reader(target)), f"{reader.__name__}: {target} {outcome}"
                )

    @given(_targets())
    @example("/LOGIN")
    @example("/login;x")
    @example("/login/../token")
    @example("/login.html")
    @example("/login/%00")
    @example("/login/index.php/token")
    def test_open(self, target: str) -> None:
        """For every reader, a target without a certificate is below the open path."""
        for rule in (
            LOGIN,
            RuleSettings(path="/login", client_certificate=CertificateRequirement.OPTIONAL),
        ):
            if self.outcome(target, ClientAuth.REQUIRED, rule) is not rule.client_certificate:
                continue
            for reader in READERS:
                path = reader(target)
                self.assertTrue(
                    path is None or _is_below("/login", path), f"{reader.__name__}: {target} {path}"
                )

    def test_every_letter(self) -> None:
        """The rule covers every Unicode character that a reader maps to a letter, or drops."""
        tried = 0
        for code in (*range(0x80, 0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200)):
            letter = chr(code)
            decomposed = unicodedata.normalize("NFKD", letter)
            forms = {decomposed[0], letter.upper(), letter.casefold(), decomposed.casefold()}
            for wanted in "token":
                if wanted in "".join(forms).lower():
                    target = "/" + "token".replace(wanted, quote(letter))
                    self.assert_held(target)
                    tried += 1
            if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
                self.assert_held(f"/tok{quote(letter)}en")
                self.assert_held(f"/token{quote(letter)}")
        self.assertGreater(tried, 300)

    def assert_held(self, target: str) -> None:
        if self.outcome(target, ClientAuth.OPTIONAL, TOKEN) is CertificateRequirement.OPTIONAL:
            for reader in READERS:
                self.assertFalse(
                    _is_below("/token", reader(target)), f"{reader.__name__}: {target}"
                )

    def test_not_vacuous(self) -> None:
        """Each reader finds the path, and most of them also in another spelling.

        The exceptions are the strictest readers.
        """
        for reader in READERS:
            self.assertEqual("/token", reader("/token?x"), reader.__name__)
        for reader, target in zip(
            READERS,
            (
                "/token", "/%74oken", "//x/token", "//x/token", "/token;x", "/token.x", "//token",
                "/token%3fx", "/TOKEN.",
                "/%2574oken", "/(S(x))/token", "/tok%ffen", "/tok%C3%A9en", "/tok%C4%99n",
                "/to%E2%84%AAen", "/to%E2%84%AAen",
                "/TOKEN", "/%EF%BD%94oken", "/tok%C4%99n", "/tok%C2%ADen", "/%C5%A7oken",
                "/token.json", "/index.php/token",
                "/token&x", "/token%00x", "/tok%c1%a5n",
            ),
            strict=True,
        ):  # fmt: skip
            self.assertEqual("/token", reader(target), reader.__name__)


def _is_below(rule: str, path: str | None) -> bool:
    return path is not None and f"{path}/".startswith(f"{rule}/")


class Detours(SynchronousTestCase):
    def test_both_ways(self) -> None:
        """A detour through a path has its requirements too: some servers do not resolve it."""
        for target in ("/token/../other", "/token/a/../../other", "/other/../token"):
            self.assertIs(CertificateRequirement.REQUIRED, need(target, TOKEN), target)
        self.assertIs(CertificateRequirement.IGNORED, need("/login/../other", TOKEN, LOGIN))

    def test_contradiction(self) -> None:
        """A request is rejected if one reading requires a certificate and another ignores it."""
        for target in ("/token/../login", "/login/../token", "/login/a/../../token"):
            self.assertIs(
                Code.CONTRADICTORY_RULES,
                self.assertRaises(HttpError, need, target, TOKEN, LOGIN).response.code,
            )


class Paths(SynchronousTestCase):
    def test_matched(self) -> None:
        """A rule holds for its path and the paths below it, with any permitted characters."""
        for path in ("/", "/a.b/..c", "/v1/tokens:introspect", "/~me/$x/a:b:", "/A/b'(c)!+,=@_-&"):
            rule = RuleSettings(path=path, client_certificate=CertificateRequirement.REQUIRED)
            self.assertIs(CertificateRequirement.REQUIRED, need(path, rule), path)
            self.assertIs(
                CertificateRequirement.REQUIRED, need(path.rstrip("/") + "/below", rule), path
            )


class Mistakes(SynchronousTestCase):
    def test_path(self) -> None:
        """A path that no request could match, or that could be misunderstood, is a mistake."""
        for path in (
            "", "token", "/token/", "//", "/a//b", "/a/../b", "/.", "/a?b", "/a;b", "/%74oken",
            "/a b", "/\u00e9", "/a.", "/a./b",
            "/...", "/a:$b", "/(S(x))", "/a/(f(x)", "/a/b::$DATA", "/a;", "/token*", "*", "/*",
            "/token.*", "/a#b", "/a\\b", "/a\n", "/^token", "/(a|b)",
        ):  # fmt: skip
            with self.assertRaises(SettingsError, msg=path) as raised:
                RuleSettings(path=path, client_certificate=CertificateRequirement.REQUIRED)
            self.assertIn("path: found ", str(raised.exception))

    @given(
        st.text(alphabet="/token*?#%\\; .~!$&'()+,=:@-_A1\n\u00e9|^", max_size=8)
        | st.text(max_size=5)
    )
    def test_every_path_can_match(self, path: str) -> None:
        """A rule's path, in lower case, is the first reading of a request for it."""
        for text in (path, f"/{path}"):
            try:
                rule = RuleSettings(path=text, client_certificate=CertificateRequirement.REQUIRED)
            except SettingsError:
                continue
            self.assertEqual(text.lower(), normalized_paths(text.encode())[0])
            self.assertIs(CertificateRequirement.REQUIRED, need(text, rule))

    def test_silent(self) -> None:
        """A secret name that was pasted where a path or a name belongs is not shown."""
        mistakes: tuple[dict[str, Any], ...]
        mistakes = ({"path": NAME}, {"path": f"/{NAME}*"}, {"server_name": NAME})
        for mistake in mistakes:
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


API = RuleSettings(path="/api", token=TokenRequirement.BOUND)
PUBLIC = RuleSettings(path="/api/public", token=TokenRequirement.IGNORED)
SOME = RuleSettings(path="/some", token=TokenRequirement.WHEN_BOUND)


class Tokens(SynchronousTestCase):
    """The need of an access token, by the same rules."""

    def expect(
        self,
        need: TokenRequirement,
        target: str,
        *rules: RuleSettings,
        host: str = "as.example.com",
    ) -> None:
        settings = PolicySettings(rules=rules)
        self.assertIs(need, token_requirement_for(head(target, host), settings), target)

    def test_paths(self) -> None:
        """A rule holds for its path and all below it, in every spelling.

        No other path has its token checked.
        """
        for target in (
            "/api",
            "/api/",
            "/api/a?b",
            "/%61PI;x",
            "/API",
            "/api.",
            "/a/../api",
            "/api.json",
        ):
            self.expect(TokenRequirement.BOUND, target, API, SOME)
        for target in ("/", "/apis", "/a/api", "*"):
            self.expect(TokenRequirement.IGNORED, target, API, SOME)
        self.expect(TokenRequirement.WHEN_BOUND, "/some/thing", API, SOME)
        self.expect(TokenRequirement.IGNORED, "/api")

    def test_ambiguous(self) -> None:
        """A path that servers read in different ways is 400, where tokens are checked at all."""
        for target in ("//x/api", "/ap%ff", "/api%3fx", "/%2561pi"):
            settings = PolicySettings(rules=(API,))
            error: HttpError = self.assertRaises(
                HttpError, token_requirement_for, head(target), settings
            )
            self.assertIs(Code.AMBIGUOUS_PATH, error.response.code)
            self.expect(TokenRequirement.IGNORED, target, PUBLIC)

    def test_opening(self) -> None:
        """A rule that opens a path below opens its own spelling alone."""
        self.expect(TokenRequirement.IGNORED, "/api/public", API, PUBLIC)
        for target in ("/api/PUBLIC", "/api/public.json", "/api/%70ublic;x"):
            self.expect(TokenRequirement.BOUND, target, API, PUBLIC)

    def test_longest_first(self) -> None:
        """The longest path with a token decides."""
        for rules in ((API, PUBLIC), (PUBLIC, API)):
            self.expect(TokenRequirement.IGNORED, "/api/public/a", *rules)
            self.expect(TokenRequirement.BOUND, "/api/publicity", *rules)

    def test_each_key_by_itself(self) -> None:
        """A longer rule about certificates alone does not change a rule about tokens.

        The reverse holds as well.
        """
        certificates = RuleSettings(
            path="/api/admin", client_certificate=CertificateRequirement.REQUIRED
        )
        for rules in ((API, certificates), (certificates, API)):
            self.expect(TokenRequirement.BOUND, "/api/admin/x", *rules)
            self.assertIs(CertificateRequirement.REQUIRED, need("/api/admin/x", *rules))
            self.assertIs(CertificateRequirement.OPTIONAL, need("/api/x", *rules))
        below = RuleSettings(path="/token/a", token=TokenRequirement.BOUND)
        self.assertIs(CertificateRequirement.REQUIRED, need("/token/a", TOKEN, below))

    def test_detours(self) -> None:
        """Of what a path with ``..`` can mean, the strictest holds."""
        for target in ("/api/../login", "/login/../api", "/api/public/../x", "/x/../api/public"):
            self.expect(
                TokenRequirement.BOUND,
                target,
                API,
                RuleSettings(path="/x", token=TokenRequirement.BOUND),
            )
        self.expect(TokenRequirement.BOUND, "/api/public/../a", API, PUBLIC)
        self.expect(TokenRequirement.WHEN_BOUND, "/some/../a", API, SOME)

    def test_server_names(self) -> None:
        """A rule may be for one server name alone."""
        rule = RuleSettings(server_name="api.example", token=TokenRequirement.BOUND)
        for host in ("api.example", "API.example.:8443"):
            self.expect(TokenRequirement.BOUND, "/", rule, host=host)
        self.expect(TokenRequirement.IGNORED, "/", rule, host="as.example")

    def test_needs_one(self) -> None:
        """A rule decides about certificates, or about tokens, or both."""
        error = self.assertRaises(SettingsError, RuleSettings, path="/a")
        self.assertTrue(str(error).startswith("client-certificate: found nothing"), error)
        RuleSettings(
            client_certificate=CertificateRequirement.REQUIRED, token=TokenRequirement.BOUND
        )

    def test_contradiction(self) -> None:
        """A token cannot be compared with a certificate that is ignored."""
        ignored = CertificateRequirement.IGNORED
        error = self.assertRaises(
            SettingsError, RuleSettings, client_certificate=ignored, token=TokenRequirement.BOUND
        )
        self.assertTrue(
            str(error).startswith("token: found bound beside client-certificate"), error
        )
        RuleSettings(client_certificate=ignored, token=TokenRequirement.WHEN_BOUND)
