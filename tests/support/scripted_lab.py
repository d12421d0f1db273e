"""A lab of the auditor whose exchanges are scripted by a test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded
from h2.exceptions import ProtocolError
from twisted.trial.unittest import SynchronousTestCase

from tests.support.broken_terminator import HEADER
from x509proxy.audit.certificates import Store
from x509proxy.audit.client import Address, Ending
from x509proxy.audit.lab import Echoes, Exchange, Field, Lab, Pace, Response, Target
from x509proxy.audit.probe import NotApplicable
from x509proxy.audit.probes import PROBES
from x509proxy.audit.recorder import Arrival
from x509proxy.settings import Format

_BY_ID = {probe.id: probe for probe in PROBES}


JSON = ((b"Content-Type", b"application/json"),)


class FakeConnection:
    """A connection that returns the bytes of a test, and then nothing."""

    session = None
    ending = Ending.REFUSED
    alert = ""
    resumed = False
    protocol = b"h2"
    authorities = 0

    def __init__(self, *replies: bytes) -> None:
        self._replies = list(replies)

    def __enter__(self) -> FakeConnection:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def send(self, data: bytes) -> None:
        pass

    def read(self, seconds: float) -> bytes:
        return self._replies.pop(0) if self._replies else b""


class FakeHttp2(FakeConnection):
    """A server of HTTP/2 that serves each stream."""

    ending = Ending.CLOSED

    def __init__(self, status: bytes = b"200") -> None:
        super().__init__()
        self._status = status
        config = H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_inbound_headers=False,
            validate_outbound_headers=False,
        )
        self._http2 = H2Connection(config)
        self._http2.initiate_connection()

    def send(self, data: bytes) -> None:
        try:
            events = self._http2.receive_data(data)
        except ProtocolError:
            return  # GOAWAY is sent
        for event in events:
            if isinstance(event, StreamEnded):
                self._http2.send_headers(1, [(b":status", self._status)])
                self._http2.send_data(1, b"ok", end_stream=True)

    def read(self, seconds: float) -> bytes:
        return self._http2.data_to_send()


class ScriptedLab(Lab):
    """A lab with scripted exchanges; ``arrived`` is the result of each request at the back end."""

    many_requests = 3
    fake: FakeConnection
    arrived: tuple[Arrival, ...] = ()
    ending = Ending.CLOSED

    def connect(self, *_: Any, **__: Any) -> Any:
        return self.fake

    def arrivals(self, token: bytes, responses: Iterable[Response]) -> tuple[Arrival, ...]:
        return self.arrived

    def send(self, *arguments: Any, **options: Any) -> Exchange:
        return Exchange(b"", b"", (), self.arrived, self.ending)


class ScriptTestCase(SynchronousTestCase):
    timeout = 60

    def setUp(self) -> None:
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        self.store = Store(folder)
        self.target = Target(Address("127.0.0.1", 1, "localhost"), (Field(HEADER, Format.PEM_URL),))

    def lab(self, *arrived: Arrival, ending: Ending = Ending.CLOSED) -> ScriptedLab:
        """Return a lab whose requests arrive as ``arrived``."""
        lab = ScriptedLab(self.target, Echoes(), self.store, Pace(quiet=0.01))
        lab.arrived, lab.ending, lab.fake = arrived, ending, FakeConnection()
        return lab

    def faults(self, probe: str, lab: Lab) -> list[str]:
        """Return the faults that a probe finds."""
        return list(_BY_ID[probe].script(lab))

    def inapplicable(self, probe: str, lab: Lab) -> None:
        """Check that a probe does not apply."""
        with self.assertRaises(NotApplicable):
            self.faults(probe, lab)
