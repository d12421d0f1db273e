"""Scripts of probes on exchanges that no server at hand would make."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded
from h2.exceptions import ProtocolError
from twisted.trial.unittest import SynchronousTestCase

from tests.support.audit_requests import arrival, echo
from tests.support.broken_terminator import HEADER, Fault, Terminator
from tests.support.ports import free_port
from x509proxy.audit import judge
from x509proxy.audit.certificates import Store
from x509proxy.audit.client import Address, Ending
from x509proxy.audit.lab import Echoes, Exchange, Field, Lab, Pace, Recording, Response, Target
from x509proxy.audit.probe import Group, NotApplicable, Probe, Severity
from x509proxy.audit.probes import PROBES
from x509proxy.audit.recorder import Arrival, Listener, Recorder
from x509proxy.audit.run import Outcome, run
from x509proxy.settings import Format

_BY_ID = {probe.id: probe for probe in PROBES}
_JSON = ((b"Content-Type", b"application/json"),)


class FakeConnection:
    """A connection that sends back what a test gives it, and then nothing."""

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

    def __init__(self) -> None:
        super().__init__()
        config = H2Configuration(
            client_side=False, header_encoding=None, validate_inbound_headers=False
        )
        self._http2 = H2Connection(config)
        self._http2.initiate_connection()

    def send(self, data: bytes) -> None:
        try:
            events = self._http2.receive_data(data)
        except ProtocolError:
            return  # GOAWAY is on its way.
        for event in events:
            if isinstance(event, StreamEnded):
                self._http2.send_headers(1, [(b":status", b"200")])
                self._http2.send_data(1, b"ok", end_stream=True)

    def read(self, seconds: float) -> bytes:
        return self._http2.data_to_send()


class ScriptedLab(Lab):
    """A lab whose exchanges a test has made; ``arrived`` is what each request arrives as."""

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


class ScriptCase(SynchronousTestCase):
    timeout = 60

    def setUp(self) -> None:
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        self.store = Store(folder)
        self.target = Target(Address("127.0.0.1", 1, "localhost"), (Field(HEADER, Format.PEM_URL),))

    def lab(self, *arrived: Arrival, ending: Ending = Ending.CLOSED) -> ScriptedLab:
        """Return a lab whose requests arrive as these."""
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


class Scripts(ScriptCase):
    def test_missing_options(self) -> None:
        """Without its option a probe does not apply."""
        for probe in ("host-given", "direct", "plain-forged"):
            self.inapplicable(probe, self.lab())

    def test_refused(self) -> None:
        """A terminator that does not offer a version, or rejects pieces, has nothing to test."""
        for probe in ("hello-segments", "tls-1.2"):
            self.inapplicable(probe, self.lab(ending=Ending.REFUSED))
        self.inapplicable("renegotiation", self.lab())

    def test_no_session(self) -> None:
        """Where there is no session there is nothing to resume."""
        lab = self.lab()
        lab.exchange = lambda *_: None  # type: ignore[method-assign,assignment]
        self.assertEqual([], self.faults("resumption-keeps", lab))

    def test_other_values(self) -> None:
        """Each probe of a missing certificate finds its own value alone."""
        lab = self.lab(arrival((HEADER, b"(null)")))
        self.assertEqual([], self.faults("absent-dash", lab))
        self.assertEqual([], self.faults("absent-placeholder", lab))
        self.assertEqual([], self.faults("absent-after-other", lab))

    def test_removed_characters(self) -> None:
        """A terminator may remove control characters."""
        self.assertEqual([], self.faults("syntax-splitters", self.lab(arrival((b"X-A", b"a")))))

    def test_ended_while_open(self) -> None:
        """A connection that ends with the last request has a limit."""
        lab = self.lab()
        lab.fake = FakeConnection(*[b"x"] * 3)
        self.assertEqual([], self.faults("many-requests", lab))

    def test_late_inapplicable(self) -> None:
        """A fault that was found counts, even if the rest does not apply."""

        def script(_: Lab) -> Iterator[str]:
            yield "found x, expected y"
            raise NotApplicable("no more")

        probe = Probe("x", Group.NAMES, Severity.LOW, "", "", script)
        (result,) = run(self.lab(), [probe])
        self.assertIs(Outcome.FAILED, result.outcome)

    def test_plain_closed(self) -> None:
        """An unencrypted port that is closed passes nothing."""
        place = Address("127.0.0.1", free_port(), "localhost")
        target = Target(self.target.address, self.target.fields, plain=place)
        lab = Lab(target, Echoes(), self.store)
        self.assertEqual([], self.faults("plain-forged", lab))

    def test_anonymous_resumption(self) -> None:
        """A resumed session without an identity proves nothing, and claims nothing."""
        recorder = Recorder(Listener(host="127.0.0.1"))
        self.addCleanup(recorder.stop)
        terminator = Terminator(recorder.port, Fault.RESUMES_ANONYMOUS)
        self.addCleanup(terminator.stop)
        target = Target(Address("127.0.0.1", terminator.port, "localhost"), self.target.fields)
        lab = Lab(target, Recording(recorder), self.store, Pace(quiet=0.01))
        self.assertEqual([], self.faults("resumption-proves", lab))

    def test_echo(self) -> None:
        """Behind an echo the requests are read from the responses, and some probes do not apply."""
        recorder = Recorder(Listener(host="127.0.0.1"))
        self.addCleanup(recorder.stop)
        recorder.responder = echo
        terminator = Terminator(recorder.port, Fault.UNDERSCORES)
        self.addCleanup(terminator.stop)
        target = Target(Address("127.0.0.1", terminator.port, "localhost"), self.target.fields)
        lab = Lab(target, Echoes(), self.store)
        self.assertEqual([], self.faults("name-same", lab))
        self.assertEqual([], self.faults("encoding-exact", lab))
        self.assertTrue(self.faults("twin-underscores", lab))
        self.inapplicable("encoding-folded", lab)


class Http2(ScriptCase):
    def test_sound(self) -> None:
        """A sound terminator has no fault in any probe of HTTP/2."""
        for probe in PROBES:
            if probe.group is Group.HTTP2 and probe.id != "h2-identity":
                lab = self.lab(
                    arrival((b"Host", b"localhost"), (b"Cookie", b"a=1; b=2"), (HEADER, b"x"))
                )
                lab.connect = lambda *_: FakeHttp2()  # type: ignore[method-assign]
                self.assertEqual([], list(probe.script(lab)), probe.id)

    def test_odd_servers(self) -> None:
        """A server that closes, or sends a malformed frame, has no response."""
        settings = b"\0\0\1\4\0\0\0\0\0\0"
        for replies in ((), (settings,)):
            lab = self.lab()
            lab.fake = FakeConnection(*replies)
            self.assertEqual([], self.faults("h2-forged", lab))

    def test_missing_library(self) -> None:
        """Without h2 the probes do not apply."""
        before = sys.modules["h2.config"]
        self.addCleanup(sys.modules.__setitem__, "h2.config", before)
        sys.modules["h2.config"] = None  # type: ignore[assignment]
        self.inapplicable("h2-forged", self.lab())


class Judge(ScriptCase):
    def test_explained(self) -> None:
        """A JSON error explains a rejection; HTML, silence and an alert do not."""
        good = Exchange(b"", b"", (Response(401, _JSON),), (), Ending.CLOSED)
        self.assertEqual([], list(judge.explained(good)))
        for exchange, words in (
            (Exchange(b"", b"", (Response(400),), (), Ending.CLOSED), "found status 400"),
            (Exchange(b"", b"", (), (), Ending.OPEN), "found no response"),
            (
                Exchange(b"", b"", (), (), Ending.ALERT, alert="bad certificate"),
                "TLS alert bad certificate",
            ),
        ):
            (fault,) = judge.explained(exchange)
            self.assertIn(words, fault)


class Remedies(SynchronousTestCase):
    def test_each(self) -> None:
        """Each probe has a promise in one sentence, an origin, and a remedy."""
        for probe in PROBES:
            self.assertTrue(probe.promise.endswith("."), probe.id)
            self.assertTrue(probe.reference, probe.id)
            self.assertTrue(probe.remedies, probe.id)
