"""Tests of :mod:`x509proxy.monitoring.snapshot`: bounded, printable, without secrets."""

from __future__ import annotations

import attrs
import msgspec
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from tests.support.exchanges import exchange, refused
from tests.support.snapshots import DOWN, snapshot
from x509proxy.monitoring.counters import Counters
from x509proxy.monitoring.snapshot import (
    BackendState,
    Snapshot,
    WorkerState,
    clients_of,
    refusals_of,
)


class Ready(SynchronousTestCase):
    def test_ready(self) -> None:
        """It is ready while it listens, does not drain, and may have a back end that is up."""
        slow = BackendState(url="http://c", state="slow")
        for changes, ready in (
            ({}, True),
            ({"backends": (DOWN, slow)}, True),
            ({"backends": (DOWN,)}, False),
            ({"backends": (msgspec.structs.replace(DOWN, due=True),)}, True),
            ({"backends": ()}, False),
            ({"draining": True}, False),
            ({"listeners": ()}, False),
        ):
            self.assertEqual(ready, snapshot(**changes).ready, changes)


class Texts(SynchronousTestCase):
    def setUp(self) -> None:
        self.counters = Counters()

    def test_refusals(self) -> None:
        """Refusals come newest first, with the client's certificate.

        The time is that of the answer.
        """
        client = samples.client("CN=somebody")
        self.counters.exchange(refused(certificate=client, started=10.0, duration=2.0))
        self.counters.exchange(refused(started=20.0))
        newer, older = refusals_of(self.counters)
        self.assertEqual(("", ""), (newer.thumbprint, newer.subject))
        self.assertEqual(
            (12.0, client.thumbprint, "CN=somebody"), (older.at, older.thumbprint, older.subject)
        )
        self.assertEqual(
            (401, "no client certificate", "POST", "/token"),
            (older.status, older.detail, older.method, older.target),
        )

    def test_clients(self) -> None:
        """Clients come latest first."""
        for number, started in ((1, 5.0), (2, 3.0), (3, 4.0)):
            self.counters.exchange(
                exchange(started=started, certificate=samples.client(f"CN=client {number}"))
            )
        self.assertEqual(
            ["CN=client 1", "CN=client 3", "CN=client 2"],
            [row.subject for row in clients_of(self.counters)],
        )

    def test_plain(self) -> None:
        """A subject of any length and script is shown as short ASCII on one line."""
        subject = "CN=\u202eM\xfcller\x1b[31m\r\n" + "x" * 5000
        self.counters.exchange(
            exchange(certificate=attrs.evolve(samples.client(), subject=subject))
        )
        [row] = clients_of(self.counters)
        self.assertTrue(
            row.subject.startswith("CN=\\u202eM\\xfcller\\x1b[31m\\x0d\\x0axxx"), row.subject
        )
        self.assertTrue(row.subject.isascii() and row.subject.isprintable())
        self.assertEqual((160, True), (len(row.subject), row.subject.endswith("...")))

    def test_secrets(self) -> None:
        """A secret name is removed before a text is cut, or half of it would remain."""
        secret = "S" * 40

        def hide(text: str) -> str:
            return text.replace(secret, "...")

        self.counters.exchange(refused(target="/" + "x" * 140 + secret, detail=f"about {secret}"))
        [row] = refusals_of(self.counters, hide)
        self.assertNotIn("SS", row.target + row.detail)


class Pipes(SynchronousTestCase):
    def test_there_and_back(self) -> None:
        """A snapshot goes through JSON whole, statuses included, which are keys there."""
        counters = Counters()
        counters.exchange(refused(certificate=samples.client()))
        counters.handshake_succeeded(0x0304, "X25519MLKEM768")
        sent = snapshot(
            counts=counters.counts(), refusals=refusals_of(counters), clients=clients_of(counters),
            workers=(WorkerState(pid=1, started=2.0),),
        )  # fmt: skip
        self.assertEqual(sent, msgspec.json.decode(msgspec.json.encode(sent), type=Snapshot))

    def test_rubbish(self) -> None:
        """Other bytes are a ValueError."""
        for content in (b"{}", b"[]", b'{"taken":"now"}', b"null"):
            self.assertRaises(ValueError, msgspec.json.decode, content, type=Snapshot)
