"""Tests of :mod:`x509proxy.config.endpoint_strings`: mistakes are found before the start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.endpoints import serverFromString
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.names import NAME
from x509proxy.config import endpoint_strings
from x509proxy.config.endpoint_strings import (
    Description,
    EndpointSyntaxError,
    check_endpoints,
    endpoint_string,
    endpoint_warnings,
    expected_for,
    private_socket,
)
from x509proxy.settings import AdminSettings, ListenerSettings, ProxySettings, SettingsError

GOOD = (
    "tcp:8443", "tcp:0", "tcp:port=8443:interface=127.0.0.1", "tcp:8443:127.0.0.1:5",
    r"tcp:1:interface=\:\:1", "tcp6:8443",
    "tcp:1:interface=localhost", "tcp:1:interface=", r"tcp6:1:interface=\:\:1:backlog=5", "unix:/a",
    "unix:/a:mode=660:lockfile=0", "unix:a:660:50", r"unix:/a\:b\=c", "unix:address=/a=b",
    "haproxy:tcp:1", "haproxy:unix:/a",
)  # fmt: skip
FOREIGN = (
    "systemd:domain=INET:name=https",
    "systemd:domain=INET6:index=0",
    "systemd:UNIX:0",
    "nothing:1",
    "onion:80",
)


class Sentences(SynchronousTestCase):
    def refusal(
        self,
        *listen: str,
        admin: str | None = None,
        listeners: tuple[str, ...] = (),
        backend: tuple[str, ...] = (),
    ) -> str:
        others = tuple(ListenerSettings(endpoint=one) for one in listeners)
        admin_settings = None if admin is None else AdminSettings(listen=admin, allow_remote=True)
        settings = ProxySettings(
            listen=listen, listeners=others, admin=admin_settings, backend=backend
        )
        sentence = str(self.assertRaises(SettingsError, check_endpoints, settings))
        self.assertNotIn("\n", sentence)
        return sentence

    def test_good(self) -> None:
        """Descriptions that Twisted and its plug-ins take are taken."""
        for text in (*GOOD, *FOREIGN):
            check_endpoints(ProxySettings(listen=(text,)))

    def test_mistakes(self) -> None:
        """The sentence names the mistake and shows what is expected."""
        tcp = ", expected tcp:8443 or tcp:8443:interface=127.0.0.1"
        unix = ", expected unix:/path or unix:/path:mode=660"
        systemd = ", expected systemd:domain=INET:name=NAME"
        colon = r"; a colon within a part is written \:"
        every = f" without the type of endpoint, expected {expected_for()}"
        port = "which is not within 0 to 65535"
        length = "while that of a socket has 1 to 107"
        for text, sentence in (
            ("tcp:abc", f" with the port 'abc', {port}{tcp}"),
            ("tcp:99999", f" with the port '99999', {port}{tcp}"),
            ("tcp:-1", f" with the port '-1', {port}{tcp}"),
            ("tcp", f" without a port{tcp}"),
            ("tcp:", f" without a port{tcp}"),
            ("8443", every),
            ("127.0.0.1:8443", every),
            ("", every),
            ("[::1]:8443", f"{every}{colon}"),
            ("tcp:1:interface=::1", f" with more than one interface{tcp}{colon}"),
            ("tcp:1:interface=[::1]", f" with more than one interface{tcp}{colon}"),
            ("tcp:1:a:2:b", f" with one part too many{tcp}"),
            (
                r"tcp:1:interface=[\:\:1]",
                f" with the interface '[::1]', which is not an address{tcp}{colon}",
            ),
            ("tcp:1:iface=a", f" with an unknown argument 'iface'{tcp}"),
            ("tcp:1:port=2", f" with more than one port{tcp}"),
            ("tcp:1:backlog=1:backlog=2", f" with more than one backlog{tcp}"),
            ("tcp:1:backlog=x", f" with the backlog 'x', which is not a number{tcp}"),
            ("tcp:1\\", f" with a backslash at its end{tcp}"),
            ("tcp:1:backlog=1\\", f" with a backslash at its end{tcp}"),
            (
                "tcp6:x",
                rf" with the port 'x', {port}, expected tcp6:8443 or tcp6:8443:interface=\:\:1",
            ),
            ("unix:", f" with a path of 0 bytes, {length}{unix}"),
            ("unix:/" + "x" * 107, f" with a path of 108 bytes, {length}{unix}"),
            (
                "unix:/a:mode=abc",
                f" with the mode 'abc', which is not an octal mode such as 660{unix}",
            ),
            ("unix:/a:lockfile=no", f" with the lockfile 'no', which is not 0 or 1{unix}"),
            ("systemd:domain=INET", f" with neither or both of index and name{systemd}"),
            (
                "systemd:domain=INET:index=0:name=a",
                f" with neither or both of index and name{systemd}",
            ),
            (
                "systemd:domain=IP:index=0",
                f" with the domain 'IP', which is not INET, INET6 or UNIX{systemd}",
            ),
            ("systemd:index=0", f" with the domain '', which is not INET, INET6 or UNIX{systemd}"),
        ):
            self.assertEqual(f"listen: found {text!r}{sentence}", self.refusal(text))
        self.assertIn(
            "listen: found 'haproxy:tcp:x' with the port 'x'", self.refusal("haproxy:tcp:x")
        )

    def test_files(self) -> None:
        """An existing file that is no socket is an error; ``~`` is not expanded."""
        folder = Path(self.mktemp())
        folder.mkdir()
        file = folder / "file"
        file.touch()
        for path, problem in ((folder, "which is a folder"), (file, "which is a file")):
            found = f"listen: found 'unix:{path}' {problem}, expected the path of a socket"
            self.assertEqual(found, self.refusal(f"unix:{path}"))
        found = "with ~, which only a shell expands, expected the whole path"
        self.assertEqual(f"listen: found 'unix:~/a' {found}", self.refusal("unix:~/a"))
        check_endpoints(ProxySettings(listen=("unix:/dev/log",)))

    def test_zones(self) -> None:
        """The zone of a link-local address is a network interface here, by name or number."""
        for zone in ("nowhere0", "4000000000", "99999999999999999999"):
            found = f"with the zone {zone!r}, which is not a network interface here"
            text = rf"tcp6:1:interface=fe80\:\:1%{zone}"
            self.assertIn(found, self.refusal(text))
        for zone in ("lo", "1"):
            check_endpoints(ProxySettings(listen=(rf"tcp6:1:interface=fe80\:\:1%{zone}",)))

    def test_all_at_once(self) -> None:
        """Each listener with a mistake has a sentence."""
        settings = ProxySettings(listen=("tcp:x", "tcp:1", "tcp:1", "ssl:1"))
        error: SettingsError = self.assertRaises(SettingsError, check_endpoints, settings)
        words = ("with the port 'x'", "expected another address", "with TLS")
        for sentence, word in zip(error.sentences, words, strict=True):
            self.assertIn(word, sentence)
        self.assertIn("(and 2 more: see `x509proxy check`)", str(error))

    def test_relative(self) -> None:
        """A relative path depends on the folder that the proxy starts in."""
        [warning] = endpoint_warnings(ProxySettings(listen=("unix:a", "tcp:x")))
        self.assertTrue(warning.startswith("listen: found a path relative to "), warning)

    def test_keys(self) -> None:
        """The sentence begins with the key that has the mistake."""
        self.assertTrue(
            self.refusal("tcp:1", listeners=("tcp:2", "tcp:x")).startswith(
                "listeners[1].endpoint: found 'tcp:x'"
            )
        )
        self.assertTrue(
            self.refusal("tcp:1", admin="tcp:x").startswith("admin.listen: found 'tcp:x'")
        )

    def test_silent(self) -> None:
        """The secret name is not shown where it stands by mistake."""
        name = NAME[21:]
        for text in (
            NAME,
            f"tcp:{NAME}",
            f"tcp:1:{NAME}=1",
            f"tcp:1:interface={NAME}:backlog=x",
            f"unix:/{NAME}:mode=9",
        ):
            self.assertNotIn(name, self.refusal(text))
        self.assertNotIn(name, self.refusal(f"unix:/{NAME}", f"unix:/{NAME}"))
        self.assertNotIn(name, self.refusal(f"ssl:{NAME}"))

    def test_tls(self) -> None:
        """The proxy brings TLS along, so that an endpoint with TLS would have it twice."""
        for text in ("ssl:8443:privateKey=a", r"x509:tcp\:8443", "haproxy:ssl:1", r"tls:tcp\:1"):
            self.assertIn(
                f"listen: found {text!r} with TLS, expected one without, which", self.refusal(text)
            )

    def test_twice(self) -> None:
        """Two at the same place: the second could not be had."""
        for one, other in (
            ("tcp:1", "tcp:1"), ("tcp:1", "tcp:1:interface=127.0.0.1"),
            ("tcp:1:interface=127.0.0.1", "tcp:port=1"),
            ("tcp:1:interface=localhost", "tcp:1:interface=127.0.0.1"),
            ("tcp6:1", r"tcp:1:interface=\:\:1"),
            ("tcp:1", "haproxy:tcp:1"),
            ("unix:/a", "unix:/b/../a:mode=660"), ("systemd:INET:0", "systemd:domain=INET:index=0"),
            ("tcp:1:interface=host", "tcp:1"),
        ):  # fmt: skip
            found = f"found {other!r}, expected another address than that of listen, {one!r}"
            self.assertEqual(f"listen: {found}", self.refusal(one, other))
            self.assertEqual(
                f"listeners[0].endpoint: {found}", self.refusal(one, listeners=(other,))
            )
        self.assertIn(
            "admin.listen: found 'tcp:1', expected another address",
            self.refusal("tcp:1", admin="tcp:1"),
        )

    def test_apart(self) -> None:
        """Other ports, families or addresses do not meet, nor ports of the system's choice."""
        for one, other in (
            ("tcp:1", "tcp:2"),
            ("tcp:0", "tcp:0"),
            ("tcp:1:interface=127.0.0.1", "tcp:1:interface=127.0.0.2"),
            ("tcp:1", r"tcp6:1:interface=\:\:1"),
            ("unix:/a", "unix:/b"),
            ("systemd:INET:0", "systemd:INET:1"),
            ("unix:/1", "tcp:1"),
            ("onion:1", "onion:1"),
        ):
            check_endpoints(ProxySettings(listen=(one, other)))

    def test_both_families(self) -> None:
        """Where the system gives IPv4 to ``::`` too, the port is taken for both.

        Where it does not, or is silent, it is not.
        """
        path = Path(self.mktemp())
        self.patch(endpoint_strings, "_BIND_V6_ONLY", path)
        check_endpoints(ProxySettings(listen=("tcp:1", "tcp6:1")))
        path.write_text("1\n")
        check_endpoints(ProxySettings(listen=("tcp:1", "tcp6:1")))
        path.write_text("0\n")
        for pair in (("tcp:1", "tcp6:1"), ("tcp6:1", "tcp:1:interface=127.0.0.1")):
            self.assertIn("expected another address", self.refusal(*pair))

    def test_own_address(self) -> None:
        """A back end that is a listener of the proxy would be a loop."""
        for listen, backend in (
            ("tcp:1", "http://127.0.0.1:1"),
            ("tcp:1", "https://localhost:1"),
            ("tcp:1:interface=127.0.0.1", "http://127.0.0.1:1/base"),
            ("tcp:1:interface=192.0.2.1", "http://192.0.2.1:1"),
            ("tcp6:1", "http://[::1]:1"),
            ("unix:/a", "unix:/b/../a"),
        ):
            settings = ProxySettings(listen=(listen,), backend=("http://other", backend))
            error = self.assertRaises(SettingsError, check_endpoints, settings)
            self.assertEqual(
                f"backend: found {backend!r}, which is listen of this proxy, "
                "expected the address of another server",
                str(error),
            )
        self.assertIn(
            "which is admin.listen of this proxy",
            self.refusal("tcp:1", admin="tcp:2", backend=("http://127.0.0.1:2",)),
        )

    def test_other_address(self) -> None:
        """Another port, address or socket is no loop, and an invalid URL is no error here."""
        for listen, backend in (
            ("tcp:1", "http://127.0.0.1:2"),
            ("tcp:1", "http://192.0.2.1:1"),
            ("tcp:1", "http://name.example:1"),
            ("tcp:1:interface=127.0.0.1", "http://127.0.0.2:1"),
            ("tcp:0", "http://127.0.0.1:1"),
            ("onion:1", "http://127.0.0.1:1"),
            ("unix:/a", "unix:/b"),
            ("unix:/a", "http://127.0.0.1:1"),
            ("tcp:1", "unix:/a"),
            ("tcp:1", "nothing"),
        ):
            check_endpoints(ProxySettings(listen=(listen,), backend=(backend,)))

    def test_made_folder(self) -> None:
        """A folder that systemd makes may be missing; one of another user is worth a warning."""
        settings = ProxySettings(listen=("unix:/run/x509proxy-no/a",))
        self.assertEqual([], [*endpoint_warnings(settings, ("/run/x509proxy-no",))])
        self.patch(os, "access", lambda *_, **__: False)
        [warning] = endpoint_warnings(ProxySettings(listen=("unix:/run/a",)))
        self.assertEqual(
            "listen: found no right to create a socket in /run, expected a folder of this user",
            warning,
        )

    def test_missing_folder(self) -> None:
        """A missing folder of a socket is a warning, since it may be created before the start."""
        self.assertEqual([], [*endpoint_warnings(ProxySettings(listen=("unix:/a", "tcp:1")))])
        admin = AdminSettings(listen=f"unix:/run/{NAME}/a")
        first, second = endpoint_warnings(ProxySettings(listen=("unix:/nowhere/a",), admin=admin))
        self.assertEqual(
            "listen: found no folder /nowhere, expected it at the start, "
            "for example from RuntimeDirectory=",
            first,
        )
        self.assertTrue(second.startswith("admin.listen: found no folder /run/"), second)
        self.assertNotIn(NAME, second)


class AsTwisted(SynchronousTestCase):
    """Twisted's parser takes each good description too, for the same endpoint."""

    def parse(self, text: str) -> Any:
        reactor: Any = MemoryReactorClock()
        endpoint: Any = serverFromString(reactor, text)
        return endpoint

    def test_good(self) -> None:
        """Each example has the same port, address and interface."""
        for text in (good.removeprefix("haproxy:") for good in GOOD):
            arguments, endpoint = Description.parse(text).arguments, self.parse(text)
            if "port" in arguments:
                self.assertEqual(int(arguments["port"]), endpoint._port)
                self.assertEqual(
                    arguments.get("interface", endpoint._interface), endpoint._interface
                )
            else:
                self.assertEqual(arguments["address"], endpoint._address)

    @example("tcp:1:interface=127.0.0.1:backlog=5")
    @given(st.text(alphabet="tcpunix6:=\\/01 interfacebacklogmode", max_size=24))
    def test_any(self, rest: str) -> None:
        """Twisted takes each description of the common kinds that is taken here."""
        for text in (rest, f"tcp:1:{rest}", f"tcp6:{rest}", f"unix:/a:{rest}"):
            try:
                found = Description.parse(text)
            except EndpointSyntaxError:
                continue
            if found.kind in ("tcp", "tcp6", "unix"):
                self.parse(text)

    @given(
        st.text(alphabet="/ab:=\\\\d0m6", max_size=12)
        | st.sampled_from(["/a:660", "/a:mode=660", "address=/a", "/a=b:600", r"/a\:600"])
    )
    def test_mode(self, rest: str) -> None:
        """A unix socket without a mode gets the default, and one with a mode keeps it."""
        try:
            before = Description.parse(f"unix:{rest}").arguments
        except EndpointSyntaxError:
            return
        after = Description.parse(private_socket(f"unix:{rest}")).arguments
        self.assertEqual({"mode": "600", **before}, after)


class Together(SynchronousTestCase):
    def test_described(self) -> None:
        """Twisted's parsed description is put together again, so that it reads the same."""
        for text in (r"tcp:1:interface=\:\:1", r"unix:/a\:b:mode=660", "tcp:1", r"unix:/a\\b"):
            found = Description.parse(text)
            kind = text.partition(":")[0]
            arguments = dict(found.arguments)
            self.assertEqual(found, Description.parse(endpoint_string((kind,), arguments)))
        self.assertEqual(
            "tcp:0:interface=1.2.3.4", endpoint_string((), {"tcp:0:interface": "1.2.3.4"})
        )


class Locality(SynchronousTestCase):
    def test_local(self) -> None:
        """A unix socket and a loopback address are this host's alone.

        A name or no interface is not.
        """
        for text, expected in (
            ("unix:/a", True),
            ("tcp:1:interface=127.0.0.1", True),
            (r"tcp:1:interface=\:\:1", True),
            ("tcp:1:interface=192.0.2.1", False),
            ("tcp:1:interface=localhost", False),
            ("tcp:1", False),
        ):
            self.assertIs(expected, Description.parse(text).is_local, text)

    def test_admin(self) -> None:
        """The admin listener is reached from this host alone, unless that is allowed."""
        for listen, remote, refused in (
            ("tcp:9443", False, True),
            ("tcp:9443", True, False),
            ("tcp:9443:interface=127.0.0.1", False, False),
        ):
            settings = ProxySettings(admin=AdminSettings(listen=listen, allow_remote=remote))
            if refused:
                error: SettingsError = self.assertRaises(SettingsError, check_endpoints, settings)
                self.assertIn("admin.listen: found", str(error))
                self.assertIn("other hosts can reach", str(error))
            else:
                check_endpoints(settings)


class Malformed(SynchronousTestCase):
    def test_unchanged(self) -> None:
        """A description that cannot be parsed is left for the check that reports it."""
        self.assertEqual("tcp:::::", private_socket("tcp:::::"))
