"""Tests of :mod:`x509proxy.settings`."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.settings import (
    AdminSettings,
    Backend,
    CertificateRequirement,
    ClientAuth,
    ClientSettings,
    DiscoverySettings,
    Format,
    HeaderSettings,
    HealthSettings,
    Key,
    KeyType,
    ListenerSettings,
    PolicySettings,
    ProxyProtocol,
    ProxySettings,
    RuleSettings,
    Scheme,
    SettingsError,
    TlsSettings,
    TlsVersion,
    TokenLevel,
    TokenRequirement,
    TokenSettings,
    Trust,
    UpstreamSettings,
    Validity,
    keys,
    table_of,
    url_problem,
)

TABLES: tuple[type[Any], ...] = (
    TlsSettings,
    PolicySettings,
    ClientSettings,
    UpstreamSettings,
    ProxySettings,
)


def numbers(table: type[Any]) -> list[str]:
    return [
        name
        for name in table.__struct_fields__
        if isinstance(getattr(table(), name), int | float) and name != "demo"
    ]


class Numbers(SynchronousTestCase):
    def test_bounded(self) -> None:
        """No number can be switched off: zero, less, infinity and NaN are rejected (L7)."""
        for table in TABLES:
            for name in numbers(table):
                for number in (0, -1, math.inf, -math.inf, math.nan):
                    raised = self.assertRaises(ValueError, table, **{name: number})
                    self.assertEqual(
                        f"{name.replace('_', '-')}: found {number}, expected a number above zero",
                        str(raised),
                    )

    def test_booleans_are_no_numbers(self) -> None:
        """A switch that is off is not a number that is zero."""
        self.assertFalse(ProxySettings(demo=False).demo)

    @given(st.floats(min_value=0, max_value=366 * 86400, exclude_min=True))
    def test_any_other(self, seconds: float) -> None:
        """Every other number of seconds, up to a year, is kept as it is."""
        self.assertEqual(seconds, ClientSettings(head_timeout=seconds).head_timeout)


class Values(SynchronousTestCase):
    def test_frozen(self) -> None:
        """Settings do not change after they have been checked."""
        for table in TABLES:
            for name in table.__struct_fields__:
                self.assertRaises(AttributeError, setattr, table(), name, None)

    def test_hashable(self) -> None:
        """Equal settings are equal keys."""
        for table in TABLES:
            self.assertEqual(1, len({table(), table()}))

    def test_defaults(self) -> None:
        """The defaults are those of the design."""
        client, upstream, proxy = ClientSettings(), UpstreamSettings(), ProxySettings()
        self.assertEqual(
            (TlsVersion.TLS_1_2, 10.0), (TlsSettings().minimum_version, client.handshake_timeout)
        )
        self.assertEqual(
            (10.0, 30.0, 30.0, 1000),
            (
                client.head_timeout,
                client.body_timeout,
                client.idle_timeout,
                client.max_requests_per_connection,
            ),
        )
        self.assertEqual(
            (16384, 8192, 100, 8192),
            (
                client.max_head_bytes,
                client.max_line_bytes,
                client.max_header_fields,
                client.max_target_bytes,
            ),
        )
        self.assertEqual((1048576, 4096), (client.max_body_bytes, client.max_connections))
        self.assertEqual(
            (5.0, 30.0, 30.0),
            (upstream.connect_timeout, upstream.response_timeout, upstream.read_timeout),
        )
        self.assertEqual((15.0, 32768), (upstream.idle_timeout, upstream.max_head_bytes))
        self.assertEqual(
            (("tcp:8443",), (), "connect2id"), (proxy.listen, proxy.backend, proxy.preset)
        )
        self.assertEqual(
            (ClientAuth.OPTIONAL, Trust.ANY, 8192),
            (proxy.client_certificate, proxy.trust, proxy.max_certificate_bytes),
        )

    def test_policy(self) -> None:
        """The policy's part of a proxy's settings is complete."""
        proxy = ProxySettings(
            client_certificate=ClientAuth.REQUIRED,
            trust=Trust.CA,
            validity=Validity.IGNORE,
            max_certificate_bytes=1000,
        )
        self.assertEqual(
            PolicySettings(
                client_certificate=ClientAuth.REQUIRED,
                trust=Trust.CA,
                validity=Validity.IGNORE,
                max_certificate_bytes=1000,
            ),
            proxy.policy,
        )

    def test_repr_keeps_the_secret(self) -> None:
        """The header's name is not in the text that a traceback shows (invariant L4)."""
        self.assertEqual(
            "ProxySettings(listen=('tcp:8443',), backend=('http://a',), preset='connect2id')",
            repr(ProxySettings(header="Sec-Client-X509-Cert-secret", backend=("http://a",))),
        )


class Toml(SynchronousTestCase):
    def read(self, **table: Any) -> ProxySettings:
        return msgspec.convert(table, ProxySettings)

    def test_names(self) -> None:
        """Names in TOML have hyphens, and nested settings are tables."""
        found = self.read(
            **{
                "header-file": "header.txt",
                "client-certificate": "required",
                "client": {"head-timeout": 1.5},
            }
        )
        self.assertEqual("header.txt", found.header_file)
        self.assertEqual(ClientAuth.REQUIRED, found.client_certificate)
        self.assertEqual(1.5, found.client.head_timeout)

    def test_lists(self) -> None:
        """A repeatable key is a list."""
        self.assertEqual(
            ("http://a", "http://b"), self.read(backend=["http://a", "http://b"]).backend
        )

    def test_back_ends(self) -> None:
        """The keys about failing back ends are read.

        Sentences name the key, but not a path, which may hold another.
        """
        found = self.read(
            upstream={"retry-delay": 0.5, "max-retry-delay": 300},
            health={"path": "/health?full=1", "status": 204},
        )
        self.assertEqual((0.5, 300), (found.upstream.retry_delay, found.upstream.max_retry_delay))
        self.assertEqual(HealthSettings(path="/health?full=1", status=204), found.health)
        for table, sentence in (
            (
                {"upstream": {"retry-delay": 31}},
                "retry-delay: found 31, expected max-retry-delay, 30, or less",
            ),
            (
                {"upstream": {"max-retry-delay": 301}},
                "max-retry-delay: found 301, expected 300 or less",
            ),
            (
                {"client": {"max-body-bytes": 1 << 41}},
                "max-body-bytes: found 2199023255552, expected 1099511627776 or less",
            ),
            ({"health": {"path": "/", "status": 600}}, "status: found 600, expected 200 to 599"),
            (
                {"health": {"path": "/#a"}},
                "path: found no path, expected one such as /health, "
                "in ASCII and without spaces or #",
            ),
        ):
            error = self.assertRaises(msgspec.ValidationError, self.read, **table)
            self.assertEqual(sentence, str(error).partition(" - at")[0])

    def test_hosts(self) -> None:
        """A name that is served is written as names are compared.

        With another one, every request would be misdirected.
        """
        hosts = ("localhost", "as.example.com", "127.0.0.1", "[::1]", "xn--a_b")
        self.assertEqual(hosts, self.read(client={"allowed-hosts": hosts}).client.allowed_hosts)
        for name in (
            "https://localhost",
            "localhost:18443",
            "LOCALHOST",
            "localhost.",
            "*.example.com",
            "",
            "::1",
            "a\n",
        ):
            error = self.assertRaises(
                msgspec.ValidationError, self.read, client={"allowed-hosts": ["a", name]}
            )
            expected = "expected a host's name in lower case, without a port, a final dot or *"
            self.assertEqual(
                f"allowed-hosts: found {name!r}, {expected}",
                str(error).partition(" - at")[0].replace("\\\\", "\\"),
            )

    def test_wrong(self) -> None:
        """Wrong types, unknown words and bad numbers are refused, wherever they stand."""
        tables: tuple[dict[str, Any], ...] = (
            {"backend": "http://a"},
            {"trust": "anyone"},
            {"demo": "yes"},
            {"max-certificate-bytes": 8192.5},
            {"max-certificate-bytes": 0},
            {"client": {"head-timeout": "10s"}},
            {"client": {"head-timeout": 0}},
            {"upstream": {"retry-delay": 31}},
            {"upstream": {"max-retry-delay": 301}},
            {"health": {}},
            {"health": {"path": "health"}},
            {"health": {"path": "/a b"}},
            {"health": {"path": "/", "status": 100}},
            {"health": {"path": "/", "interval": 0}},
            {"tls": {"minimum-version": "1.1"}},
        )
        for table in tables:
            self.assertRaises(msgspec.ValidationError, self.read, **table)


class BackendUrl(SynchronousTestCase):
    def test_ports_and_bases(self) -> None:
        """A back end that is made of parts is checked as one that is read."""
        for changes in (
            {"port": 65536},
            {"port": 0},
            {"base": b"a"},
            {"base": b"/a/"},
            {"base": b"/a?b"},
            {"base": b"/a b"},
        ):
            self.assertRaises(SettingsError, Backend, scheme=Scheme.HTTP, host="a", **changes)

    def test_table(self) -> None:
        """Each form of a back end is read into its parts, and written back as short as it goes."""
        for url, parts, authority, text in (
            ("http://app", (Scheme.HTTP, "app", 80, "", b""), b"app", "http://app"),
            ("http://app:80/", (Scheme.HTTP, "app", 80, "", b""), b"app", "http://app"),
            ("https://app", (Scheme.HTTPS, "app", 443, "", b""), b"app", "https://app"),
            ("https://app:80", (Scheme.HTTPS, "app", 80, "", b""), b"app:80", "https://app:80"),
            (
                "HTTP://App:8080/c2id/",
                (Scheme.HTTP, "app", 8080, "", b"/c2id"),
                b"app:8080",
                "http://app:8080/c2id",
            ),
            (
                "http://127.0.0.1:8080/a/b",
                (Scheme.HTTP, "127.0.0.1", 8080, "", b"/a/b"),
                None,
                None,
            ),
            ("http://[::1]", (Scheme.HTTP, "::1", 80, "", b""), b"[::1]", "http://[::1]"),
            (
                "http://[2001:db8::1]:81",
                (Scheme.HTTP, "2001:db8::1", 81, "", b""),
                b"[2001:db8::1]:81",
                None,
            ),
            (
                "unix:/run/app.sock",
                (Scheme.UNIX, "", 80, "/run/app.sock", b""),
                b"localhost",
                "unix:/run/app.sock",
            ),
            (
                "unix:///run/app.sock",
                (Scheme.UNIX, "", 80, "/run/app.sock", b""),
                b"localhost",
                "unix:/run/app.sock",
            ),
        ):
            found = Backend.parse(url)
            self.assertEqual(
                parts, (found.scheme, found.host, found.port, found.path, found.base), url
            )
            self.assertEqual(authority or found.authority, found.authority)
            self.assertEqual(text or url, str(found))

    def test_wrong(self) -> None:
        """Anything else is rejected, and the sentence has the value found and the one expected."""
        for url in (
            "",
            "app:8080",
            "ftp://app",
            "http:app",
            "http://",
            "http:///token",
            "http://app:0",
            "http://app:65536",
            "http://app:port",
            "http://app:-1",
            "http://app?query",
            "http://app/?",
            "http://app/#fragment",
            "http://app/a b",
            "http://app/\u00e9",
            "http://\u00e9",
            "http://a b",
            "http://a,b",
            "http://[::1",
            "http://[fe80::1%25eth0]",
            "unix:run/app.sock",
            "unix:",
            "unix:/run/\0",
        ):
            raised = self.assertRaises(SettingsError, Backend.parse, url)
            told = re.sub(r"[?#].*", "?…", url)
            self.assertIn(f"found {told!r}, expected http://host", str(raised))

    def test_credentials(self) -> None:
        """Credentials in the address are rejected, and not repeated in the error."""
        for url in (
            "http://user:hunter2@app",
            "http://hunter2@app",
            "http://:hunter2@app",
            "http://u:hunter2@a@b",
            "ftp://u:hunter2@a",
        ):
            raised = self.assertRaises(SettingsError, Backend.parse, url)
            self.assertNotIn("hunter2", str(raised))

    def test_control_characters(self) -> None:
        """A line end or a tab in an address is refused, not passed over."""
        for url in ("http://a\npp", "http://app\t", "\x1fhttp://app", "http://app/ba\rse"):
            self.assertRaises(SettingsError, Backend.parse, url)

    @given(st.text(alphabet="htps:/[]@?#.%aB1- \u00e9\n", max_size=20) | st.text())
    def test_reads_or_refuses(self, url: str) -> None:
        """Each text is a back end or a sentence, and a back end reads back as itself."""
        for text in (url, "http://" + url, "unix:" + url):
            try:
                found = Backend.parse(text)
            except SettingsError:
                continue
            self.assertEqual(found, Backend.parse(str(found)))


class Tokens(SynchronousTestCase):
    def test_needed(self) -> None:
        """A rule about tokens needs the table with their settings."""
        for need in (TokenRequirement.BOUND, TokenRequirement.WHEN_BOUND):
            rules = (
                RuleSettings(path="/a", token=TokenRequirement.IGNORED),
                RuleSettings(token=need),
            )
            error = self.assertRaises(SettingsError, ProxySettings, rules=rules)
            expected = "tokens: found none, expected a table with level, since rules[1] has a token"
            self.assertEqual(expected, str(error))
            ProxySettings(rules=rules, tokens=TokenSettings(level=TokenLevel.UNVERIFIED))
        ProxySettings(rules=(RuleSettings(path="/a", token=TokenRequirement.IGNORED),))

    def test_size(self) -> None:
        """A token has the size of a head at the most."""
        error = self.assertRaises(
            SettingsError, TokenSettings, level=TokenLevel.UNVERIFIED, max_token_bytes=16385
        )
        self.assertEqual("max-token-bytes: found 16385, expected 16384 or less", str(error))


_JWT: dict[str, Any] = {"level": TokenLevel.JWT, "issuer": "https://as.example", "audience": ("a",)}
_ASKED: dict[str, Any] = {
    "level": TokenLevel.INTROSPECTION,
    "issuer": "https://as.example",
    "client_id": "api",
    "client_secret_file": "secret.txt",
}
_IGNORED = CertificateRequirement.IGNORED
# A table, keys that contradict each other, and the beginnings of the sentences.
CONTRADICTIONS: tuple[tuple[type[Any], dict[str, Any], tuple[str, ...]], ...] = (
    (RuleSettings, {}, ("client-certificate: found nothing, expected required",)),
    (RuleSettings, {"client_certificate": _IGNORED, "path": "/a*"}, ("path: found '/a*'",)),
    (
        RuleSettings,
        {"client_certificate": _IGNORED, "methods": ("GET", "get")},
        ("methods: found 'get', expected some of GET, ",),
    ),
    (
        RuleSettings,
        {"client_certificate": _IGNORED, "server_name": "A"},
        ("server-name: found 'A'",),
    ),
    (
        RuleSettings,
        {"client_certificate": _IGNORED, "token": TokenRequirement.BOUND},
        ("token: found bound beside client-certificate = ignored",),
    ),
    (PolicySettings, {"key_types": ()}, ("key-types: found none, expected one or more of",)),
    (PolicySettings, {"key_types": (KeyType.EC,) * 2}, ("key-types: found one twice",)),
    (
        PolicySettings,
        {"rules": (RuleSettings(client_certificate=_IGNORED),) * 2},
        ("rules: found two for the same path, server name and method",),
    ),
    (
        ClientSettings,
        {"max_line_bytes": 200, "max_head_bytes": 100},
        ("max-line-bytes: found 200, expected ",),
    ),
    (
        ListenerSettings,
        {"endpoint": "haproxy:tcp:1", "proxy_protocol": ProxyProtocol.NONE},
        ("proxy-protocol: found none, expected required",),
    ),
    (ListenerSettings, {"endpoint": "haproxy:haproxy:tcp:1"}, ("endpoint: found haproxy: twice",)),
    (
        ListenerSettings,
        {"endpoint": "tcp:1", "proxy_hops": 2},
        ('proxy-protocol: found none, expected "required" where',),
    ),
    (
        ListenerSettings,
        {"endpoint": "haproxy:tcp:1", "trusted_proxies": ()},
        ("trusted-proxies: found none, expected at least one",),
    ),
    (
        ListenerSettings,
        {"endpoint": "haproxy:tcp:1", "trusted_proxies": ("10.0.0.1/8", "::/0")},
        ("trusted-proxies: found '10.0.0.1/8', expected an address, or a network",),
    ),
    (ProxySettings, {"listen": ("haproxy:haproxy:tcp:1",)}, ("endpoint: found haproxy: twice",)),
    (DiscoverySettings, {"mtls": "http://as.example"}, ("mtls: found no https origin",)),
    (DiscoverySettings, {"mtls": "https://as.example:65536"}, ("mtls: found no https origin",)),
    (TokenSettings, {**_JWT, "algorithms": ()}, ("algorithms: found none",)),
    (TokenSettings, {**_JWT, "issuer": "http://as.example"}, ("issuer: found http, expected",)),
    (TokenSettings, {**_JWT, "issuer": "https://as.example/?a"}, ("issuer: found a query",)),
    (
        TokenSettings,
        {"level": TokenLevel.JWT},
        ("issuer: found none, expected the iss", "audience: found none, expected one or more"),
    ),
    (
        TokenSettings,
        {**_JWT, "jwks_file": "a", "jwks_url": "https://as.example/a"},
        ("jwks-url: found both jwks-file and jwks-url",),
    ),
    (
        TokenSettings,
        {"level": TokenLevel.INTROSPECTION},
        (
            "introspection-url: found neither",
            "client-id: found none",
            "client-secret-file: found neither",
        ),
    ),
    (TokenSettings, {**_ASKED, "certificate": "c.pem"}, ("client-secret-file: found both",)),
    (
        AdminSettings,
        {"listen": "unix:/a", "allowed_hosts": ("a b",)},
        ("allowed-hosts: found 'a b'",),
    ),
    (Backend, {"scheme": Scheme.HTTP, "base": b"/a/"}, ("base path: found b'/a/'",)),
)


class Contradictions(SynchronousTestCase):
    def test_each(self) -> None:
        """Each contradiction within a table is a sentence, and several are all reported."""
        for table, values, beginnings in CONTRADICTIONS:
            error: SettingsError = self.assertRaises(SettingsError, table, **values)
            self.assertEqual(len(beginnings), len(error.sentences), error.sentences)
            for beginning, sentence in zip(beginnings, error.sentences, strict=True):
                self.assertEqual(beginning, sentence[: len(beginning)])

    def test_none(self) -> None:
        """Settings without one are accepted."""
        TokenSettings(**_JWT)
        TokenSettings(**_ASKED)
        DiscoverySettings(mtls="https://mtls.example.com:8443")
        ListenerSettings(endpoint="haproxy:tcp:1", trusted_proxies=("10.0.0.0/8", "::1"))

    def test_home(self) -> None:
        """A ``~`` at the beginning of a path is replaced by shells alone."""
        error: SettingsError = self.assertRaises(SettingsError, ProxySettings, certificate="~/a")
        self.assertTrue(str(error).startswith("certificate: found ~ at the beginning"), error)


class Urls(SynchronousTestCase):
    def test_problems(self) -> None:
        """A URL is https, or http to this host; it is not repeated."""
        for url, problem in (
            ("https://as.example/a", ""),
            ("http://127.0.0.1:8080/a", ""),
            ("http://as.example/a", "found http, expected https"),
            ("as.example", "found no URL"),
            ("https://as.example:65536/a", "found no URL"),
        ):
            found = url_problem(url)
            self.assertTrue(found.startswith(problem) if problem else found == "", found)
            self.assertNotIn("as.example/a", found)


class Places(SynchronousTestCase):
    def test_all(self) -> None:
        """The places of ``listen`` come first, then those of ``listeners``, each with its key."""
        settings = ProxySettings(
            listen=("tcp:1", "haproxy:tcp:2"), listeners=(ListenerSettings(endpoint="tcp:3"),)
        )
        self.assertEqual(
            ["tcp:1", "tcp:2", "tcp:3"], [one.description for one in settings.all_listeners]
        )
        self.assertEqual(("listen", "listen", "listeners[0].endpoint"), settings.listener_keys)
        self.assertEqual(
            [False, True, False], [place.is_proxied for place in settings.all_listeners]
        )

    def test_policy(self) -> None:
        """The policy of the proxy's settings is their part that has the policy's keys."""
        self.assertEqual(PolicySettings(), ProxySettings().policy)
        policy = ProxySettings(trust=Trust.SELF_SIGNED).policy
        self.assertEqual(PolicySettings(trust=Trust.SELF_SIGNED), policy)


class Secrets(SynchronousTestCase):
    def test_representations(self) -> None:
        """Names and values of headers are not in the text of the settings (invariant L4)."""
        header = HeaderSettings(format=Format.LITERAL, name="Sec-Name", value="s3cret")
        for text in (repr(header), repr(ProxySettings(header="Sec-Name", headers=(header,)))):
            self.assertNotIn("Sec-Name", text)
            self.assertNotIn("s3cret", text)

    def test_several(self) -> None:
        """An error of several sentences shows the first, and the number of the others."""
        error = SettingsError("a: found b, expected c", "x", "y")
        self.assertEqual("a: found b, expected c (and 2 more: see `x509proxy check`)", str(error))


class Keys(SynchronousTestCase):
    def test_required(self) -> None:
        """A key without a default is required; a plain field of a table has no facts."""
        self.assertTrue(keys(ListenerSettings)["endpoint"].required)
        self.assertFalse(keys(ProxySettings)["trust"].required)
        self.assertEqual(Key(""), keys(Backend)["host"].key)

    def test_tables(self) -> None:
        """A key holds a table, an optional one or a list of them, or no table."""
        fields = keys(ProxySettings)
        for name, table in (
            ("client", ClientSettings),
            ("admin", AdminSettings),
            ("listeners", ListenerSettings),
            ("trust", None),
        ):
            self.assertIs(table, table_of(fields[name].type), name)


class UnverifiableHosts(SynchronousTestCase):
    def test_https(self) -> None:
        """A host that no certificate can name is an error with https, and none with http."""
        Backend.parse("http://a_b/")
        self.assertRaises(SettingsError, Backend.parse, f"unix:/{'a' * 107}")
        Backend.parse("https://[::1]/")
        self.assertRaises(SettingsError, Backend.parse, "https://a_b/")
