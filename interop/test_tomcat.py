"""Tests with Tomcat 10: the client's certificates that its servlets receive behind the proxy."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from urllib.parse import quote

from cryptography.hazmat.primitives.serialization import Encoding

from interop.recipes import filled, recipe
from interop.stage import ClientFiles, Proxy
from interop.tomcat import Tomcat, TomcatStage
from tests.support.ports import free_port
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.forwarding.secret_name import new_header_name
from x509proxy.testing import ThrowAwayAuthority

_KINDS = (KeyKind.RSA, KeyKind.EC)
_SECRET = "Sec-Client-X509-Cert-…"


def _der(client: ClientFiles | SelfSigned) -> bytes:
    made = client.made if isinstance(client, ClientFiles) else client
    return made.certificate.public_bytes(Encoding.DER)


def _values(made: SelfSigned) -> tuple[str, str, str]:
    """Return a certificate in each form that a server here reads."""
    pem = made.certificate_pem.decode("ascii")
    return pem.replace("\n", ""), pem.strip().replace("\n", " "), quote(pem, safe="")


def _spellings(name: str) -> set[str]:
    """Return a name as a sloppy reader folds it."""
    mixed = name.replace("_", "-", 1) if "_" in name else name.replace("-", "_", 1)
    forms = {
        name,
        mixed,
        name.replace("_", "-"),
        name.replace("-", "_"),
        name.replace("-", ".").replace("_", "."),
    }
    return {spelt for form in forms for spelt in (form, form.upper(), form.lower(), form.title())}


def _forgeries(names: Sequence[str], values: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    """Yield the fields of forged requests: once, twice, and nominated by ``Connection``."""
    for name, value in product(sorted(set().union(*map(_spellings, names))), values):
        yield [(name, value)]
    for name in names:
        yield [(name, values[0]), (name.lower(), values[-1])]
        yield [("Connection", f"keep-alive, {name}"), (name, values[0])]
        yield [("Connection", f"keep-alive, {name}")]


class ProofTestCase(TomcatStage):
    """The page's proxy in front of the page's Tomcat."""

    page = ""
    path = ""

    def proxy_for(self, tomcat: Tomcat, *more: str) -> Proxy:
        """Start the page's proxy; ``more``: recipes whose keys replace its own."""
        toml = recipe(self.page, "x509proxy.toml")
        for text in more:
            keys = re.findall(r"^(\S+) =", text, re.MULTILINE)
            toml = re.sub(rf"^(?:{'|'.join(keys)}) =.*\n", "", toml, flags=re.MULTILINE) + text
        port = free_port()
        places = {
            "tcp:8443": f"tcp:{port}:interface=127.0.0.1",
            "127.0.0.1:8080": f"127.0.0.1:{tomcat.port}",
        }
        return self.start_proxy(filled(toml, places), port)

    def clients(self) -> list[ClientFiles]:
        return [self.client(kind) for kind in _KINDS]

    def assert_needed(self, tomcat_for: Callable[[bool], Tomcat]) -> None:
        """Check that a large certificate is rejected with Tomcat's own limit.

        With the page's limit it passes; the proxy accepts no larger one.
        """
        client = self.client_files(_large(), "large")
        for limited in (False, True):
            tomcat = tomcat_for(limited)
            connection = self.connect(self.proxy_for(tomcat), client)
            answer = self.ask(connection, self.path, [("X-Filler", "x" * 8000)] * 2 * limited)
            self.assertEqual(
                (200, _der(client)) if limited else (400, None), (answer.status, answer.certificate)
            )
            self.stop_tomcat(tomcat)

    def assert_never_fooled(
        self, proxy: Proxy, path: str, forgeries: Sequence[list[tuple[str, str]]]
    ) -> None:
        """Check that a forged request gives Tomcat the honest certificate, or none."""
        for client in (None, self.client()):
            connection = self.connect(proxy, client)
            honest = self.ask(connection, path)
            self.assertEqual(
                (200, None if client is None else _der(client)), (honest.status, honest.certificate)
            )
            for fields in forgeries:
                self.assertEqual(
                    honest, self.ask(connection, path, fields), [name for name, _ in fields]
                )


class Connect2id(ProofTestCase):
    page = "servers/connect2id"
    path = "/connect2id.jsp"

    def setUp(self) -> None:
        super().setUp()
        self.server_files()
        self.secret = (self.folder / "header.txt").read_text().strip()

    def tomcat(self, connector: str = "", secret: str = "", port: int = 0) -> Tomcat:
        properties = filled(
            recipe(self.page, "catalina.properties"), {_SECRET: secret or self.secret}
        )
        valve = recipe(self.page, "remote-ip")
        return self.start_tomcat(
            connector or recipe(self.page, "connector"), valve, properties, port
        )

    def test_certificate(self) -> None:
        """The server reads the certificate of an RSA and an EC client once, and none without one.

        A bare CertificateFactory refuses that value.
        """
        proxy = self.proxy_for(self.tomcat())
        for client in self.clients():
            answer = self.ask(self.connect(proxy, client), self.path)
            found = answer.certificate, answer.said["headers"], answer.said["bare factory"]
            self.assertEqual((_der(client), "1", "refused"), found)
        self.assertEqual({"headers": "0"}, self.ask(self.connect(proxy), self.path).said)

    def test_forged(self) -> None:
        """No spelling of the secret name reaches the server from a client, and the log counts it.

        Past the proxy it does.
        """
        tomcat = self.tomcat()
        proxy = self.proxy_for(tomcat)
        other = make_self_signed(KeyKind.EC, "somebody else")
        self.assert_never_fooled(proxy, self.path, [*_forgeries([self.secret], _values(other)[:2])])
        self.wait_for_log(proxy, "1 forged header from")
        log = proxy.log.read_text()
        self.assertNotIn(self.secret.lower(), log.lower())
        for name in (self.secret, self.secret.upper()):
            answer = self.ask(self.past_the_proxy(tomcat), self.path, [(name, _values(other)[0])])
            self.assertEqual(_der(other), answer.certificate)

    def test_url(self) -> None:
        """The servlet has its https URL, with any claim of a client's.

        It has the default port if no header has another.
        """
        lies = ("Proto", "http"), ("Port", "1"), ("Host", "evil"), ("For", "192.0.2.1")
        fields = [(f"X-Forwarded-{name}", value) for name, value in lies]
        page, connector = recipe(self.page, "remote-ip"), recipe(self.page, "connector")
        without_port = filled(page, {' portHeader="X-Forwarded-Port"': ""})
        fixed = filled(connector, {"/>": 'scheme="https" secure="true" proxyPort="443" />'})
        for with_port, arguments in (
            (True, (connector, page)),
            (False, (connector, without_port)),
            (False, (fixed,)),
        ):
            tomcat = self.start_tomcat(*arguments)
            proxy = self.proxy_for(tomcat)
            said = self.ask(self.connect(proxy), "/request.jsp", fields).said
            url = proxy.url if with_port else "https://localhost"
            self.assertEqual(
                (f"{url}/request.jsp", "true", "127.0.0.1"),
                (said["url"], said["secure"], said["peer"]),
            )
            self.stop_tomcat(tomcat)

    def test_bodies(self) -> None:
        """On one connection a form's parameters, and a response of 1 MiB, arrive as sent."""
        connection = self.connect(self.proxy_for(self.tomcat()), self.client())
        form = [("Content-Type", "application/x-www-form-urlencoded")]
        connection.connect()
        kept = connection.sock
        for scope in ("openid", "räd + write", "x" * 100_000):
            body = f"grant_type=client_credentials&scope={quote(scope)}".encode("ascii")
            said = self.ask(connection, "/request.jsp", form, body).said
            self.assertEqual(("client_credentials", scope), (said["grant"], said["scope"]))
        answer = self.ask(connection, "/request.jsp?size=1048576")
        self.assertEqual(bytes(ord("a") + at % 23 for at in range(1 << 20)), answer.body)
        self.assertIs(kept, connection.sock)

    def test_large_certificate(self) -> None:
        """A certificate above 6100 bytes passes with the page's connector, not with the default."""
        connector, limit = recipe(self.page, "connector"), 'maxHttpRequestHeaderSize="32768"'
        self.assert_needed(
            lambda limited: self.tomcat("" if limited else filled(connector, {limit: ""}))
        )

    def test_rotation(self) -> None:
        """While the secret name changes, the server reads the certificate at every step.

        In the end the old name is not read any more.
        """
        client, new = self.client(), new_header_name()
        tomcat = self.tomcat()
        proxy = self.proxy_for(tomcat)
        self.rename(proxy, self.secret, new)
        self.assertEqual(_der(client), self.ask(self.connect(proxy, client), self.path).certificate)
        self.stop_tomcat(tomcat)
        tomcat = self.tomcat(secret=new, port=tomcat.port)
        self.assertEqual(_der(client), self.ask(self.connect(proxy, client), self.path).certificate)
        self.rename(proxy, new)
        self.assertEqual(_der(client), self.ask(self.connect(proxy, client), self.path).certificate)
        self.stop_tomcat(tomcat)
        self.tomcat(port=tomcat.port)
        self.assertEqual({"headers": "0"}, self.ask(self.connect(proxy, client), self.path).said)

    def rename(self, proxy: Proxy, *names: str) -> None:
        """Write new lines into the header file, and reload."""
        self.write("header.txt", "".join(f"{name}\n" for name in names))
        reloads = proxy.log.read_text().count("reload")
        proxy.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 30
        while proxy.log.read_text().count("reload") == reloads:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)

    def test_authority(self) -> None:
        """With an authority, its clients' certificates reach the server.

        A self-signed one is refused before.
        """
        authority = ThrowAwayAuthority()
        self.write("ca.pem", authority.certificate.public_bytes(Encoding.PEM))
        proxy = self.proxy_for(self.tomcat(), recipe(self.page, "authority"))
        client = self.client_files(authority.client(), "issued")
        self.assertEqual(_der(client), self.ask(self.connect(proxy, client), self.path).certificate)
        self.assertEqual(401, self.ask(self.connect(proxy, self.client()), self.path).status)


def _large() -> SelfSigned:
    """Make a certificate of 8100 to 8192 bytes of DER, the most that the proxy takes."""
    return make_self_signed(
        KeyKind.EC, "large certificate", names=[f"{at:050}.example" for at in range(129)]
    )


_HEADERS = ("ssl_client_cert", "ssl_client_escaped_cert")
_OTHERS = ("ssl_cipher", "ssl_session_id", "ssl_cipher_usekeysize", "ssl_secure_protocol")


class SslValve(ProofTestCase):
    page = "servers/tomcat-sslvalve"
    path = "/attribute.jsp"

    def setUp(self) -> None:
        super().setUp()
        self.server_files()
        self.secret = (self.folder / "header.txt").read_text().strip()

    def tomcat(self, valve: str = "", connector: str = "") -> Tomcat:
        """Return the page's configuration, with another ``valve`` in place of its SSLValve."""
        valves = recipe(self.page, "valves")
        plain = valves.splitlines()[-1]
        return self.start_tomcat(
            connector or recipe(self.page, "connector"), filled(valves, {plain: valve or plain})
        )

    def secret_valve(self) -> str:
        return filled(recipe(self.page, "secret-valve"), {_SECRET: self.secret})

    def assert_attribute(self, proxy: Proxy, *clients: ClientFiles) -> None:
        """Check that the attribute is each client's certificate, and absent without one."""
        for client in clients:
            self.assertEqual(
                _der(client), self.ask(self.connect(proxy, client), self.path).certificate
            )
        self.assertEqual("absent", self.ask(self.connect(proxy), self.path).said["attribute"])

    def test_attribute(self) -> None:
        """With the preset, and with each of its headers alone, the attribute is set."""
        tomcat = self.tomcat()
        clients = self.clients()
        for more in ("", recipe(self.page, "plain.toml"), recipe(self.page, "escaped.toml")):
            self.assert_attribute(self.proxy_for(tomcat, more), *clients)

    def test_secret_name(self) -> None:
        """Under a secret name too.

        The attribute is not set by the usual names then, not even past the proxy.
        """
        tomcat = self.tomcat(self.secret_valve())
        self.assert_attribute(
            self.proxy_for(tomcat, recipe(self.page, "secret.toml")), *self.clients()
        )
        values = _values(make_self_signed(KeyKind.EC, "somebody else"))
        for fields in product(_HEADERS, values):
            self.assertEqual(
                "absent",
                self.ask(self.past_the_proxy(tomcat), self.path, [fields]).said["attribute"],
            )

    def test_half_secret(self) -> None:
        """With sslClientCertHeader alone the valve trusts the other header too."""
        half = re.sub(r' sslClientEscapedCertHeader="[^"]*"', "", self.secret_valve())
        other = make_self_signed(KeyKind.EC, "somebody else")
        answer = self.ask(
            self.past_the_proxy(self.tomcat(half)), self.path, [(_HEADERS[1], _values(other)[2])]
        )
        self.assertEqual(_der(other), answer.certificate)

    def test_forged(self) -> None:
        """No spelling of a header that the valve reads reaches the attributes from a client.

        Past the proxy they are accepted.
        """
        tomcat = self.tomcat()
        other = make_self_signed(KeyKind.EC, "somebody else")
        forgeries = [*_forgeries(_HEADERS, _values(other)[1:]), *_forgeries(_OTHERS, ["4711"])]
        for more in ("", recipe(self.page, "plain.toml")):
            self.assert_never_fooled(self.proxy_for(tomcat, more), self.path, forgeries)
        direct = self.past_the_proxy(tomcat)
        for name, value in zip(
            ("Ssl_Client_Cert", "SSL_CLIENT_ESCAPED_CERT"), _values(other)[1:], strict=True
        ):
            self.assertEqual(_der(other), self.ask(direct, self.path, [(name, value)]).certificate)
        said = self.ask(direct, self.path, [(name, "4711") for name in _OTHERS]).said
        self.assertEqual(
            ["4711"] * 3, [said[name] for name in ("cipher_suite", "key_size", "ssl_session_id")]
        )

    def test_forged_secret(self) -> None:
        """Nor does any spelling of the secret name, or of the customary ones."""
        tomcat = self.tomcat(self.secret_valve())
        proxy = self.proxy_for(tomcat, recipe(self.page, "secret.toml"))
        values = _values(make_self_signed(KeyKind.EC, "somebody else"))
        self.assert_never_fooled(
            proxy, self.path, [*_forgeries([self.secret, *_HEADERS], values[1:])]
        )

    def test_large_certificate(self) -> None:
        """So do the preset's two headers of it."""
        connector, limit = recipe(self.page, "connector"), 'maxHttpRequestHeaderSize="65536"'
        self.assert_needed(
            lambda limited: self.tomcat(connector="" if limited else filled(connector, {limit: ""}))
        )
