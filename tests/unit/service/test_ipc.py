"""Tests of :mod:`x509proxy.service.ipc`: messages arrive whole, and anything else is rejected."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any, get_args

import attrs
import msgspec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import pair
from tests.support.crls import make_crl
from tests.support.services import ProxyFiles, parse_options
from tests.support.snapshots import snapshot
from tests.support.tokens import key_set
from x509proxy.certificates.config_files import FileContents
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.config.loader import Configuration
from x509proxy.forwarding.secret_name import new_header_name
from x509proxy.service import ipc
from x509proxy.service.ipc import (
    Alive,
    Draining,
    FrameError,
    Frames,
    LogLine,
    NewConfiguration,
    NotUsed,
    ParentMessage,
    ReopenLog,
    Serving,
    SnapshotReport,
    Stop,
    Task,
    Used,
    VersionError,
    WorkerMessage,
    decode_parent_message,
    decode_worker_message,
    encode_parent_message,
    encode_worker_message,
    frame,
)
from x509proxy.settings import ProxySettings, SettingsError

SECRET = "sixteen-or-more-letters"


def comparable(identity: Identity | None) -> object:
    """Return the parts of an identity; two private keys with the same numbers are not equal."""
    return identity and (
        identity.certificate,
        identity.private_key.private_numbers(),  # type: ignore[union-attr]
        identity.chain,
    )


def arrived(message: ParentMessage) -> ParentMessage:
    """Return a message as a worker decodes it."""
    [content] = Frames().feed(encode_parent_message(message))
    return decode_parent_message(content)


def task(configuration: Configuration, **changes: Any) -> Task:
    return Task(NewConfiguration.of(configuration), ((6, 2), (7, 1)), **changes)


class Configurations(SynchronousTestCase):
    def setUp(self) -> None:
        self.files = ProxyFiles(self.mktemp())

    def configuration(self, *more: str) -> Configuration:
        """Return one with a value for everything that files hold."""
        files = self.files
        root = pair(subject="CN=root", ca=True)
        files.write("ca.pem", root.certificate.public_bytes(Encoding.PEM))
        files.write("crl.pem", make_crl(root, days=(-9, -1)).public_bytes(Encoding.PEM))
        other = make_self_signed(KeyKind.RSA, "other", names=["other.example"], server=True)
        files.write("jwks.json", key_set())
        files.write("other.pem", other.certificate_pem + other.key_pem)
        files.write("name", new_header_name().encode())
        files.write("value", SECRET.encode())
        toml = """
            trust = "either"
            ca = "ca.pem"
            crl = "crl.pem"
            backend = ["http://127.0.0.1:9", "https://back.example/base", "unix:/run/back"]
            [[headers]]
            name-file = "name"
            format = "verdict"
            [[headers]]
            name = "X-Shared"
            format = "literal"
            value-file = "value"
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
        options = parse_options(
            *arguments[:place], *arguments[place + 2 :], "--workers", "2", *more
        )
        assert options.configuration is not None
        return options.configuration

    def test_whole(self) -> None:
        """A configuration arrives with all keys, certificates and lists, though no file is left.

        Warnings stay with the parent, which has printed them.
        """
        before = self.configuration()
        shutil.rmtree(self.files.folder)
        message = arrived(task(before))
        assert isinstance(message, Task)
        after = message.configuration.load()
        for field in attrs.fields(Configuration):
            one, other = (getattr(configuration, field.name) for configuration in (before, after))
            if "identity" in field.name:
                one, other = comparable(one), comparable(other)
            elif field.name == "extra_identities":
                one, other = (
                    [comparable(identity) for identity in found] for found in (one, other)
                )
            elif field.name in ("warnings", "files"):
                continue
            self.assertTrue(one, field.name)
            self.assertEqual(one, other, field.name)
        self.assertEqual(hash(before.rules), hash(after.rules))
        self.assertEqual(((), {}), (after.warnings, after.files.contents))

    def test_swapped(self) -> None:
        """A key, a name and a list that change after the parent's reading are not seen by a worker.

        Neither is a mode that would be rejected by now.
        """
        before = self.configuration()
        for path in self.files.folder.iterdir():
            path.write_bytes(b"swapped")
            path.chmod(0o666)
        message = arrived(NewConfiguration.of(before))
        assert isinstance(message, NewConfiguration)
        after = message.load()
        self.assertEqual(comparable(before.identity), comparable(after.identity))
        self.assertEqual((before.rules, before.trusted), (after.rules, after.trusted))

    def test_added(self) -> None:
        """A file that the parent has not sent is not read from the disk."""
        found = self.configuration()
        message = NewConfiguration(found.settings, {})
        error = self.assertRaises(SettingsError, message.load)
        self.assertIn("Not among the files of the parent", str(error))
        self.assertEqual(
            {"server.pem", "server.key", "header.txt", "ca.pem", "crl.pem", "other.pem", "name"}
            | {"value", "jwks.json"},
            {Path(path).name for path in found.files.contents},
        )

    def test_private(self) -> None:
        """A worker checks the mode that the parent has seen."""
        found = self.configuration()
        key = str(self.files.key)
        contents = dict(found.files.contents)
        contents[key] = msgspec.structs.replace(contents[key], mode=0o644)
        error = self.assertRaises(SettingsError, NewConfiguration(found.settings, contents).load)
        self.assertIn("found mode 0644", str(error))

    def test_single_process(self) -> None:
        """A process without workers does not keep the contents of its files."""
        self.assertEqual({}, self.configuration("--workers", "1").files.contents)

    def test_settings(self) -> None:
        """Default settings arrive equal, and those of a file do."""
        for sent in (ProxySettings(), self.configuration().settings):
            message = arrived(NewConfiguration(sent, {}))
            assert isinstance(message, NewConfiguration)
            self.assertEqual(sent, message.settings)

    def test_others(self) -> None:
        """The rest of a task arrives, and so does a message without content."""
        message = arrived(task(self.configuration(), access_log=5))
        assert isinstance(message, Task)
        self.assertEqual((((6, 2), (7, 1)), 5), (message.sockets, message.access_log))
        for message in (ReopenLog(), Stop()):
            self.assertEqual(message, arrived(message))

    def test_repr(self) -> None:
        """No message shows a key, a secret name or a file in a traceback."""
        text = repr([task(self.configuration()), FileContents(b"hush", 0o600, 0, 0, 0)])
        self.assertEqual("[<Task>, <FileContents: 4 bytes, mode 0600>]", text)

    def test_too_large(self) -> None:
        """Files that no worker would accept are an error of the parent, before it sends any."""
        message = task(self.configuration())
        self.patch(ipc, "_MAX_FRAME_BYTES", 1000)
        error = self.assertRaises(SettingsError, encode_parent_message, message)
        self.assertRegex(
            str(error), r"\Aworkers: found a message of \d+ bytes, expected 1000 or less\Z"
        )

    def test_other_encoding(self) -> None:
        """A path from the command line that is not UTF-8 is an error of the parent."""
        message = NewConfiguration(ProxySettings(certificate="/tmp/\udcff"), {})  # noqa: S108
        error = self.assertRaises(SettingsError, encode_parent_message, message)
        self.assertIn("workers: found a setting that is not UTF-8", str(error))


class OtherVersions(SynchronousTestCase):
    """Messages of a parent that is another version of the program."""

    def rejected(self, content: bytes) -> None:
        error = self.assertRaises(VersionError, decode_parent_message, content)
        self.assertEqual(
            "cannot decode a message from the parent; was x509proxy upgraded without a restart?",
            str(error),
        )
        self.assertIsNone(error.__cause__)
        self.assertTrue(error.__suppress_context__ or error.__context__ is None)

    def content(self, **changes: Any) -> bytes:
        message = Task(NewConfiguration(ProxySettings(), {}), ())
        return msgspec.json.encode(msgspec.to_builtins(message) | changes)

    def test_version(self) -> None:
        """A task of another version is rejected, even if it can be decoded."""
        self.assertIsInstance(decode_parent_message(self.content()), Task)
        for version in ("1.0", "", None, 3):
            self.rejected(self.content(version=version))

    def test_unknown(self) -> None:
        """An unknown kind, field or setting is rejected: dropped in silence it could be a rule."""
        found = msgspec.json.decode(self.content())
        inner = found["configuration"]
        self.rejected(self.content(more=1))
        self.rejected(self.content(kind="unknown"))
        self.rejected(self.content(configuration=inner | {"more": 1}))
        for path in ((), ("client",), ("upstream",), ("tls",)):
            changed = msgspec.json.decode(msgspec.json.encode(inner))
            table = changed["settings"]
            for name in path:
                table = table[name]
            table["unknown-rule"] = True
            self.rejected(self.content(configuration=changed))

    def test_unfit(self) -> None:
        """A setting beyond its bounds, a missing one or one of another type is rejected."""
        inner = msgspec.json.decode(self.content())["configuration"]
        for changes in ({"workers": -1}, {"workers": "2"}, {"trust": "everybody"}):
            changed = inner | {"settings": inner["settings"] | changes}
            self.rejected(self.content(configuration=changed))
        self.rejected(self.content(configuration={"kind": "new configuration", "files": {}}))

    def test_no_message(self) -> None:
        """Anything else is rejected: pickles, other JSON, deep nesting, a frame that is cut off."""
        whole = self.content()
        for content in (
            b"", b"{", b"3", b"[]", b"{}", b'{"kind":3}', b"[" * 100000, b'{"a":' + b"[" * 200000,
            pickle.dumps(ProxySettings), pickle.dumps({"kind": "reopen log"}), whole[:-1],
            whole + b"x", b"\xff" + whole,
        ):  # fmt: skip
            self.rejected(content)

    def test_directions(self) -> None:
        """No message of one direction is one of the other."""
        for message in (Serving(), Used(), NotUsed("x"), LogLine("info", "a", "b")):
            self.rejected(encode_worker_message(message)[4:])
        for sent in (ReopenLog(), Task(NewConfiguration(ProxySettings(), {}), ())):
            content = encode_parent_message(sent)[4:]
            self.assertRaises(ValueError, decode_worker_message, content)

    @given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
    @settings(max_examples=60, deadline=None)
    def test_any_bytes(self, content: bytes) -> None:
        """No bytes lead to another error."""
        self.rejected(content)
        self.assertRaises(ValueError, decode_worker_message, content)


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
        """A frame beyond the limit is rejected by its length alone."""
        frames = Frames(4)
        self.assertEqual([b"1234"], list(frames.feed(frame(b"1234"))))
        self.assertRaises(FrameError, list, frames.feed(frame(b"12345")[:4]))

    def test_truncated(self) -> None:
        """A frame that is cut off yields nothing."""
        whole = frame(b"12345")
        for size in range(len(whole)):
            self.assertEqual([], list(Frames().feed(whole[:size])))


class FromWorkers(SynchronousTestCase):
    def test_there_and_back(self) -> None:
        """Every kind of message arrives as it was sent."""
        messages: list[WorkerMessage] = [
            LogLine("info", "a.b", "text"),
            SnapshotReport(snapshot()),
            Serving(),
            Alive(),
            Draining(),
            Used(),
            NotUsed("reason"),
        ]
        self.assertEqual({*get_args(WorkerMessage)}, set(map(type, messages)))
        for message in messages:
            [content] = Frames().feed(encode_worker_message(message))
            self.assertEqual(message, decode_worker_message(content))

    def test_hostile(self) -> None:
        """Anything else is a ValueError: no JSON, an unknown kind or field, a type, a pickle."""
        for content in (
            b"", b"{", b"3", b"[]", b"{}", b'{"kind":3}', b'{"kind":"metrics"}', b'{"kind":"log"}',
            b'{"kind":"serving","more":1}', b'{"kind":"not used","error":{}}',
            b'{"kind":"snapshot","snapshot":{"taken":"now"}}', b'{"kind":"log","level":"\xff"',
            b'{"kind":"snapshot","snapshot":{"more":' + b"[" * 200000,
            pickle.dumps({"kind": "log"}),
        ):  # fmt: skip
            self.assertRaises(ValueError, decode_worker_message, content)
