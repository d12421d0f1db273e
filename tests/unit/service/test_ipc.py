"""Promises of :mod:`x509proxy.service.ipc`: what goes down a pipe is what comes out of it, and what comes up is no program."""

from __future__ import annotations

import pickle
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
from cryptography.hazmat.primitives.asymmetric import ed448
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import pair
from tests.support.tokens import key_set
from tests.system.test_service import Files, parse
from tests.unit.certificates.test_trust_store import make_crl
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.config.loader import Configuration
from x509proxy.service import ipc as room
from x509proxy.service.ipc import Frames, Task, frame, pack, read_message, unpack, write_message

NOW = datetime.now(UTC)


def comparable(identity: Identity | None) -> object:
    """What an identity is: a private key that has been made twice is not equal to itself."""
    return identity and (
        identity.certificate,
        identity.private_key.private_numbers(),  # type: ignore[union-attr]
        identity.chain,
    )


def asking(module: str, name: str) -> bytes:
    """A pickle that asks for what a module has under this name, with dots or without."""
    words = [
        pickle.SHORT_BINUNICODE + bytes([len(word)]) + word.encode() for word in (module, name)
    ]
    return pickle.PROTO + b"\x04" + b"".join(words) + pickle.STACK_GLOBAL + pickle.STOP


class Configurations(SynchronousTestCase):
    def configuration(self) -> Configuration:
        """One with something of everything."""
        files = Files(self.mktemp())
        root = pair(subject="CN=root", ca=True)
        files.write("ca.pem", root.certificate.public_bytes(Encoding.PEM))
        files.write("crl.pem", make_crl(root, days=(-9, -1)).public_bytes(Encoding.PEM))
        other = make_self_signed(KeyKind.RSA, "other", names=["other.example"], server=True)
        files.write("jwks.json", key_set())
        files.write("other.pem", other.certificate_pem + other.key_pem)
        toml = """
            trust = "either"
            ca = "ca.pem"
            crl = "crl.pem"
            backend = ["http://127.0.0.1:1", "https://back.example/base", "unix:/run/back"]
            [[headers]]
            name = "X-Verdict"
            format = "verdict"
            [[rules]]
            path = "/token"
            client-certificate = "required"
            [[listeners]]
            endpoint = "tcp:1"
            client-certificate = "none"
            [[certificates]]
            certificate = "other.pem"
            [tokens]
            level = "jwt"
            issuer = "https://as.example"
            audience = ["a"]
            jwks-file = "jwks.json"
            ca = "ca.pem"
            [discovery]
            mtls = "https://mtls.example.com"
            [upstream]
            ca = "ca.pem"
            certificate = "other.pem"
        """
        files.write("proxy.toml", toml.encode())
        arguments = files.arguments("--config", str(files.folder / "proxy.toml"))
        place = arguments.index("--backend")
        options = parse(*arguments[:place], *arguments[place + 2 :])
        assert options.configuration is not None
        return options.configuration

    def test_whole(self) -> None:
        """A configuration arrives as it was sent, whatever is in it: keys, certificates, revocation lists and all."""
        before = self.configuration()
        after = unpack(pack(before))
        for field in attrs.fields(Configuration):
            one, other = (getattr(configuration, field.name) for configuration in (before, after))
            if "identity" in field.name:
                one, other = comparable(one), comparable(other)
            elif field.name == "further":
                one, other = (
                    [comparable(identity) for identity in found] for found in (one, other)
                )
            self.assertTrue(one, field.name)
            self.assertEqual(one, other, field.name)
        self.assertEqual(hash(before.rules), hash(after.rules))

    def test_keys(self) -> None:
        """Every kind of key that a server can have arrives."""
        keys = [pair(kind).private_key for kind in ("RSA 2048", "EC P-384", "Ed25519")]
        for key in (*keys, ed448.Ed448PrivateKey.generate()):
            after = unpack(pack({"kind": "key", "key": key}))["key"]
            self.assertEqual(key.public_key(), after.public_key())

    def test_task(self) -> None:
        """A task, too, and a small message."""
        configuration = self.configuration()
        after = unpack(pack(Task(configuration, ((6, 2), (7, 1)), 5)))
        self.assertEqual(
            (((6, 2), (7, 1)), 5, configuration.rules),
            (after.sockets, after.access_log, after.configuration.rules),
        )
        self.assertEqual({"kind": "reopen log"}, unpack(pack({"kind": "reopen log"})))

    def test_nothing_else(self) -> None:
        """Nothing is loaded but classes of ours, whatever a pickle asks for: no function, and nothing that our modules import."""
        for thing in (Path("/"), print, NOW, make_self_signed):
            self.assertRaises(pickle.UnpicklingError, unpack, pickle.dumps(thing))
        for name in ("os.getpid", "os", "ProcessProtocol", "Crew.stop", "_how", "FROM_PARENT"):
            self.assertRaises(
                pickle.UnpicklingError, unpack, asking("x509proxy.service.supervisor", name)
            )

    def test_no_look(self) -> None:
        """No module of somebody else's is imported to see what it has, and no way is gone that has a dot in it."""
        self.assertRaises(pickle.UnpicklingError, unpack, asking("this", "s"))
        self.assertNotIn("this", sys.modules)
        room.way = room  # type: ignore[attr-defined]
        self.addCleanup(delattr, room, "way")
        self.assertIs(Task, unpack(asking("x509proxy.service.ipc", "Task")))
        self.assertRaises(
            pickle.UnpicklingError, unpack, asking("x509proxy.service.ipc", "way.Task")
        )


class FramesTests(SynchronousTestCase):
    @given(
        st.lists(st.binary(max_size=40), max_size=6),
        st.lists(st.integers(1, 30), min_size=1, max_size=20),
    )
    @settings(max_examples=60, deadline=None)
    def test_split(self, contents: list[bytes], sizes: list[int]) -> None:
        """However a pipe cuts them, the frames come out one by one and whole."""
        data, frames = b"".join(map(frame, contents)), Frames()
        found: list[bytes] = []
        for turn in range(len(data) + 1):
            size = sizes[turn % len(sizes)]
            found += frames.feed(data[:size])
            data = data[size:]
        self.assertEqual(contents, found)

    def test_too_long(self) -> None:
        """A frame beyond the limit is not waited for."""
        frames = Frames(4)
        self.assertEqual([b"1234"], list(frames.feed(frame(b"1234"))))
        self.assertRaises(ValueError, list, frames.feed(frame(b"12345")[:4]))


class Messages(SynchronousTestCase):
    def test_there_and_back(self) -> None:
        """A message comes up as it was sent."""
        message: dict[str, Any] = {"kind": "metrics", "counts": {"answered": 3}, "times": [0.5]}
        self.assertEqual(message, read_message(write_message(message)))

    def test_none(self) -> None:
        """What is no message is an error and nothing else: no JSON, no object, no kind, a pickle."""
        for content in (
            b"",
            b"{",
            b"3",
            b"[]",
            b"{}",
            b'{"kind":3}',
            pickle.dumps({"kind": "log"}),
        ):
            self.assertRaises(ValueError, read_message, content)
