"""Tests of a reload over real sockets: valid changes are used, and no request is lost."""

from __future__ import annotations

import os
import signal
import ssl
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs

from tests.support.certificates import Pair, pair
from tests.support.client_load import ClientLoad
from tests.support.daemons import TWISTD, Daemon, DaemonTestCase
from tests.support.pki import PkiTestCase, value_of
from tests.support.raw_tls import HEADER, Reply, get, read_reply, until
from tests.support.services import parse_options
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.forwarding.secret_name import new_header_name
from x509proxy.service.proxy_service import ProxyService
from x509proxy.testing import RecordingBackEnd

CLIENT = pair()


class ReloadTestCase(PkiTestCase):
    """A service with a TOML file that is read again, with the command line above it."""

    def write_toml(self, more: str = "", port: int | None = None) -> None:
        text = f"""
            listen = "tcp:0:interface=127.0.0.1"
            certificate = "server.pem"
            private-key = "server.key"
            header-file = "header.txt"
            backend = "http://127.0.0.1:{port or self.back_end.port}"
            client.drain-timeout = 0.2
        """
        self.write("proxy.toml", f"{text}\n{more}".encode())

    def start(self, more: str = "", *arguments: str) -> ProxyService:
        self.write_toml(more)
        options = parse_options("--config", str(self.folder / "proxy.toml"), *arguments)
        assert options.configuration is not None
        self.service = ProxyService(options.configuration, reactor, options.read, options.config)
        self.service.startService()
        self.addCleanup(self.service.stopService)
        return self.service

    def reload(self, more: str = "", port: int | None = None) -> str:
        """Write the file and reload; return the error, if there is one."""
        self.write_toml(more, port)
        self.service.reload()
        assert self.service.reloading.last is not None
        return self.service.reloading.last.error

    async def get(
        self, target: str = "/", client: Pair | None = CLIENT, host: str = "localhost"
    ) -> Reply:
        def run() -> Reply:
            with self.connect(client) as connection:
                connection.sendall(
                    get(target).replace(b"Host: localhost", b"Host: " + host.encode())
                )
                return read_reply(connection)

        reply: Reply = await deferToThread(run)
        return reply

    async def status(self, *given: Any, **named: Any) -> int:
        return (await self.get(*given, **named)).status

    async def seen(self, name: str = HEADER) -> list[bytes]:
        """Return the values of the field in the last request, after a request by the client."""
        await self.get()
        return self.back_end.requests[-1].values(name)

    async def keep_open(self) -> ssl.SSLSocket:
        connection: ssl.SSLSocket = await deferToThread(self.connect, CLIENT)
        self.addCleanup(connection.close)
        return connection

    async def ask_on(self, connection: ssl.SSLSocket, target: str = "/") -> Reply:
        def run() -> Reply:
            connection.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % target.encode())
            return read_reply(connection)

        reply: Reply = await deferToThread(run)
        return reply


class Kinds(ReloadTestCase):
    async def test_preset(self) -> None:
        """Another preset applies from the next request, on an open connection too."""
        self.start()
        connection = await self.keep_open()
        await self.ask_on(connection)
        self.assertEqual([value_of(CLIENT)], self.back_end.requests[-1].values(HEADER))
        own = '\npreset = "none"\n[[headers]]\nname = "X-Thumb"\nformat = "thumbprint"\n'
        text = (self.folder / "proxy.toml").read_text().replace(
            'header-file = "header.txt"', ""
        ) + own
        self.write("proxy.toml", text.encode())
        self.service.reload()
        await self.ask_on(connection)
        request = self.back_end.requests[-1]
        self.assertEqual(([], 1), (request.values(HEADER), len(request.values("X-Thumb"))))

    async def test_header_name(self) -> None:
        """Another secret name applies."""
        self.start()
        self.assertEqual([value_of(CLIENT)], await self.seen())
        other = new_header_name()
        self.write("header.txt", other.encode())
        self.assertEqual("", self.reload())
        self.assertEqual(([], [value_of(CLIENT)]), (await self.seen(), await self.seen(other)))

    async def test_rules(self) -> None:
        """Other rules apply from the next request."""
        self.start()
        self.assertEqual(200, await self.status("/token", None))
        self.assertEqual(
            "", self.reload('[[rules]]\npath = "/token"\nclient-certificate = "required"\n')
        )
        self.assertEqual(
            [401, 200], [await self.status(target, None) for target in ("/token", "/")]
        )

    async def test_policy(self) -> None:
        """Another policy applies."""
        self.start()
        self.assertEqual(200, await self.status())
        self.assertEqual("", self.reload('trust = "ca"\nca = "ca.pem"\n'))
        self.assertEqual(401, await self.status())

    async def test_client_certificate(self) -> None:
        """The modes of client certificates can change, for each listener separately."""
        more = '[[listeners]]\nendpoint = "tcp:0:interface=127.0.0.1"\nclient-certificate = "{}"\n'
        self.start(more.format("none"))
        self.assertEqual(
            "", self.reload('client-certificate = "required"\n' + more.format("optional"))
        )

        def ask(place: int, client: Pair | None) -> int:
            with self.connect(client, place=place) as connection:
                connection.sendall(get())
                return read_reply(connection).status

        statuses = [
            await deferToThread(ask, place, client) for place in (0, 1) for client in (None, CLIENT)
        ]
        self.assertEqual([401, 200, 200, 200], statuses)
        self.assertEqual([value_of(CLIENT)], self.back_end.requests[-1].values(HEADER))

    async def test_discovery(self) -> None:
        """A reload can add discovery."""
        self.start()
        body = b'{"issuer":"https://a","token_endpoint":"https://a/token"}'
        answer = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        self.back_end.answers.extend([answer, answer])
        path = "/.well-known/openid-configuration"
        self.assertNotIn(b"mtls_endpoint_aliases", (await self.get(path)).body)
        self.assertEqual("", self.reload('[discovery]\nmtls = "https://mtls.example.com"\n'))
        self.assertIn(b"mtls_endpoint_aliases", (await self.get(path)).body)

    async def test_limits(self) -> None:
        """Other limits apply to new connections; an open one keeps its own."""
        self.start()
        connection = await self.keep_open()
        await self.ask_on(connection)
        self.assertEqual("", self.reload("client.max-target-bytes = 20\n"))
        self.assertEqual(414, await self.status("/" + "a" * 30))
        self.assertEqual(200, (await self.ask_on(connection, "/" + "a" * 30)).status)

    async def test_more_certificates(self) -> None:
        """A certificate for another server name can be added."""
        self.start()
        second = make_self_signed(KeyKind.EC, "second", names=["second.example"], server=True)
        self.write_server("second", second)
        self.assertEqual(
            "",
            self.reload(
                '[[certificates]]\ncertificate = "second.pem"\nprivate-key = "second.key"\n'
            ),
        )

        def shown(name: str) -> bytes | None:
            with self.connect(None, name=name) as connection:
                return connection.getpeercert(binary_form=True)

        ders = [await deferToThread(shown, name) for name in ("main.example", "second.example")]
        self.assertEqual(2, len(set(ders)))

    async def test_tls(self) -> None:
        """The version of TLS can change."""
        self.start()
        self.assertEqual("", self.reload('tls.minimum-version = "1.3"\n'))
        with self.assertRaises(ssl.SSLError):
            await deferToThread(self.connect, None, version="TLSv1.2")


class BackEnds(ReloadTestCase):
    def other(self) -> RecordingBackEnd:
        other = RecordingBackEnd(reactor)
        self.addCleanup(other.stop)
        return other

    async def test_another(self) -> None:
        """New requests go to the new back end.

        Exchanges with the old one complete, and then no connection to it stays open.
        """
        self.start()
        other = self.other()
        held: list[Any] = []
        idle = await self.keep_open()
        await self.ask_on(idle)
        self.back_end.answers.append(held.append)
        connection = await self.keep_open()
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await self.back_end.heard(2)
        self.assertEqual("", self.reload("", other.port))
        self.assertEqual(200, (await self.ask_on(idle, "/new")).status)
        self.assertEqual([b"GET /new HTTP/1.1"], [request.start for request in other.requests])
        held[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
        self.assertEqual(b"late", (await deferToThread(read_reply, connection)).body)
        await until(lambda: not self.back_end.connections, 5)
        self.assertEqual((2, 1), (len(self.back_end.requests), len(other.connections)))

    async def test_the_same(self) -> None:
        """An unchanged back end keeps its connections when another one is added."""
        self.start()
        await self.get()
        other = self.other()
        backend = "http://127.0.0.1:"
        both = f'backend = ["{backend}{self.back_end.port}", "{backend}{other.port}"]'
        text = (
            (self.folder / "proxy.toml")
            .read_text()
            .replace(f'backend = "{backend}{self.back_end.port}"', both)
        )
        self.write("proxy.toml", text.encode())
        self.service.reload()
        for _ in range(2):
            await self.get()
        self.assertEqual(1, self.back_end.accepted)

    async def test_upstream(self) -> None:
        """Changed settings towards the back ends apply to new connections.

        The connections with the old settings are closed.
        """
        self.start()
        await self.get()
        self.assertEqual("", self.reload("upstream.max-connections = 3\n"))
        await until(lambda: not self.back_end.connections, 5)
        await self.get()
        self.assertEqual(2, self.back_end.accepted)


class HttpError(ReloadTestCase):
    async def test_sentences(self) -> None:
        """Each broken file is reported in one sentence with its name, and nothing changes."""
        self.start()
        cases = (
            ("nonsense\n", "proxy.toml"),
            ("unknown-key = 1\n", "unknown-key"),
            ('ca = "nowhere.pem"\ntrust = "ca"\n', "nowhere.pem"),
            ('preset = "unheard-of"\n', "unheard-of"),
            ("workers = 2\n", "workers: found a change that needs a restart"),
        )
        for more, words in cases:
            self.assertIn(words, self.reload(more))
            self.assertEqual([value_of(CLIENT)], await self.seen())
        self.write("header.txt", b"short\n")
        sentence = self.reload()
        self.assertIn("header.txt", sentence)
        self.assertNotIn("short\n", sentence)
        self.assertEqual([value_of(CLIENT)], await self.seen())

    async def test_names_that_are_none(self) -> None:
        """A back end with a name that no resolver accepts is rejected like any other mistake."""
        self.start()
        for host in ("a..b", "a" * 64 + ".example"):
            text = (
                (self.folder / "proxy.toml")
                .read_text()
                .replace("http://127.0.0.1", f"http://{host}")
            )
            self.write("proxy.toml", text.encode())
            self.service.reload()
            assert self.service.reloading.last is not None
            self.assertIn("backend: found", self.service.reloading.last.error)
            self.write_toml()

    async def test_listen(self) -> None:
        """Another listening address needs a restart, and no other change of that file is used."""
        self.start()
        self.write_toml('[[rules]]\npath = "/"\nclient-certificate = "required"\n')
        text = (
            (self.folder / "proxy.toml")
            .read_text()
            .replace('"tcp:0:interface=127.0.0.1"', '"tcp:1:interface=127.0.0.1"')
        )
        self.write("proxy.toml", text.encode())
        self.service.reload()
        assert self.service.reloading.last is not None
        self.assertIn(
            "listen: found a change that needs a restart", self.service.reloading.last.error
        )
        self.assertEqual(200, await self.status("/", None))

    async def test_command_line(self) -> None:
        """The command line overrides the file in a reload too."""
        self.start("", "--client-certificate", "required")
        self.assertEqual("", self.reload('client-certificate = "none"\n'))
        self.assertEqual([401, 200], [await self.status("/", client) for client in (None, CLIENT)])


class OnChange(ReloadTestCase):
    async def test_files(self) -> None:
        """With ``reload-poll-interval``, new certificates and rules are used without a signal."""
        more = "reload-poll-interval = 0.1\n"
        self.start(more)
        with capturedLogs() as events:
            made = make_self_signed(KeyKind.EC, "new", names=["main.example"], server=True)
            self.write_server("server", made)
            await until(lambda: self.service.reloading.last is not None, pause=0.05)
            last = self.service.reloading.last
            assert last is not None
            self.assertEqual("", last.error)
            self.write_toml(more + '[[rules]]\npath = "/"\nclient-certificate = "required"\n')
            await until(lambda: self.service.reloading.last is not last, pause=0.05)
        self.assertEqual(401, await self.status("/", None))
        self.assertEqual(
            2, sum("are used as they are now" in event["log_format"] for event in events)
        )

    async def test_switched_off(self) -> None:
        """A reload can end the polling."""
        self.start("reload-poll-interval = 0.05\n")
        self.assertEqual("", self.reload())
        last = self.service.reloading.last
        self.write_toml("unknown = 1\n")
        await deferLater(reactor, 0.3)
        self.assertIs(last, self.service.reloading.last)


class UnderLoad(DaemonTestCase):
    WORKERS = 1
    RELOADS = 10

    async def test_nothing_is_lost(self) -> None:
        """Ten reloads in three seconds, with other files and rules, lose no request.

        Four clients send requests continuously: two on a connection that stays open, two on a new
        one for each request.
        """
        daemon = self.prepare()
        other = RecordingBackEnd(reactor)
        self.addCleanup(other.stop)
        config = daemon.files.folder / "proxy.toml"
        self.write(daemon, daemon.back_end.port, 0)
        command = [
            *TWISTD,
            "-n",
            "--pidfile",
            str(daemon.pid_file),
            "x509proxy",
            "--config",
            str(config),
        ]
        daemon.spawn(command)
        await until(daemon.listens, pause=0.05)
        client = make_self_signed(KeyKind.EC, "client")
        # Workers need time to start: until then there is no load.
        self.assertEqual(200, (await self.ask(daemon, get())).status)
        load = ClientLoad(
            daemon, daemon.files.write("client.pem", client.certificate_pem + client.key_pem), 3.5
        )
        clients = [deferToThread(load.run, keep) for keep in (True, True, False, False)]
        for turn in range(1, self.RELOADS + 1):
            await deferLater(reactor, 0.25)
            daemon.files.renew()
            self.write(daemon, (daemon.back_end if turn % 2 == 0 else other).port, turn)
            os.kill(daemon.pid, signal.SIGHUP)
            await until(
                lambda turn=turn: daemon.log.count("are used as they are now") == turn,  # type: ignore[misc]
                pause=0.02,
            )
        for one in clients:
            await one
        self.assertEqual([], load.failures)
        self.assertGreater(load.answered, 100)
        self.assertGreater(load.connections, 20)
        self.assertGreater(min(len(daemon.back_end.requests), len(other.requests)), 10)
        self.assertEqual(load.answered + 1, len(daemon.back_end.requests) + len(other.requests))

    def write(self, daemon: Daemon, port: int, turn: int) -> None:
        text = f"""
            listen = "tcp:{daemon.port}:interface=127.0.0.1"
            certificate = "server.pem"
            private-key = "server.key"
            header-file = "header.txt"
            backend = "http://127.0.0.1:{port}"
            workers = {self.WORKERS}
            [[rules]]
            path = "/turn-{turn}"
            client-certificate = "required"
        """
        daemon.files.write("proxy.toml", text.encode())


class UnderLoadWithWorkers(UnderLoad):
    WORKERS = 2
