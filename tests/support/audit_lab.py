"""An audit of a terminator with chosen faults, and the fault that each probe must find."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.broken_terminator import HEADER, Fault, Terminator
from x509proxy.audit.certificates import Store
from x509proxy.audit.client import Address
from x509proxy.audit.lab import Field, Lab, Pace, Recording, Target
from x509proxy.audit.probe import Probe
from x509proxy.audit.probes import PROBES
from x509proxy.audit.recorder import Listener, Recorder
from x509proxy.audit.run import Outcome, Result, check_reachable, run
from x509proxy.settings import Format

_OTHER_SYNTAX = {"syntax-many-fields", "syntax-long-value", "syntax-splitters"}


def _beginning(prefix: str) -> list[str]:
    """Return the probe ids with this prefix."""
    return [probe.id for probe in PROBES if probe.id.startswith(prefix)]


# Each probe with the failure class that it must find.
FINDS: dict[Fault, tuple[str, ...]] = {
    Fault.ALERTS: (
        "certificate-ec",
        "certificate-rsa",
        "certificate-rsa-pss",
        "certificate-ed25519",
    ),
    Fault.ANSWERS_HTML: ("rejection-validity", "rejection-usage", "rejection-size"),
    Fault.APPENDS_TRAILERS: ("trailer", "trailer-announced"),
    Fault.AUTHORITIES: ("authorities",),
    Fault.BODIES_OF_GET: ("framing-body-request", "framing-expect"),
    Fault.BROKEN_VALUE: ("encoding-exact",),
    Fault.CASE_SENSITIVE: ("name-lower", "name-upper", "name-swapped"),
    Fault.CHAIN_FOR_LEAF: ("certificate-chain",),
    Fault.CONTINUES_AFTER_ERROR: ("pipeline-after-error",),
    Fault.CONTINUES_BAD_HEADS: ("pipeline-split-head",),
    Fault.CONTROL_CHARACTERS: ("syntax-splitters",),
    Fault.DASH: ("absent-dash",),
    Fault.EARLY_HEADS: ("target-large",),
    Fault.ECHOES_NAME: ("response-name",),
    Fault.EMPTY: ("absent-empty",),
    Fault.FIRST_COPY: ("name-repeated",),
    Fault.FOLDED: ("encoding-folded",),
    Fault.HTTP2_ANONYMOUS: ("h2-identity",),
    Fault.HTTP2_NAIVE: tuple(
        probe.id for probe in PROBES if probe.id.startswith("h2-") and probe.id != "h2-identity"
    ),
    Fault.KEEPS: (
        "name-same",
        "name-comma",
        "twin-hyphens",
        "connection-nominates-forged",
        "syntax-many-fields",
        "syntax-long-value",
    ),
    Fault.KEEPS_ON_HOSTS: ("host-other", "host-case", "host-twice", "host-odd", "host-given"),
    Fault.KEEPS_ON_METHODS: ("method-any", "method-post", "target-asterisk"),
    Fault.KEEPS_ON_PATHS: (
        "target-paths",
        "target-special",
        "target-given",
        "target-error",
        "target-absolute",
    ),
    Fault.KEEPS_ON_PIECES: ("hello-segments", "hello-fragments"),
    Fault.KEEPS_ON_SERVER_NAMES: ("sni-none", "sni-unknown", "sni-case", "sni-below"),
    Fault.KEEPS_ON_VERSIONS: ("version-1.0", "version-odd"),
    Fault.KEEPS_ON_VERSION_1_2: ("tls-1.2",),
    Fault.KEEPS_ON_VERSION_1_3: ("tls-1.3",),
    Fault.LOSES_ODD: (
        "certificate-issued",
        "certificate-ml-dsa",
        "certificate-no-name",
        "certificate-expired",
        "certificate-usage",
        "certificate-weak",
        "certificate-large",
        "certificate-huge",
    ),
    Fault.MARKS: ("twin-marks",),
    Fault.NOMINATED: ("connection-nominates", "connection-keep-alive"),
    Fault.NULL: ("absent-null",),
    Fault.OLD_TLS: ("tls-old",),
    Fault.PLACEHOLDER: ("absent-placeholder",),
    Fault.PLAIN: ("plain-forged",),
    Fault.PLUS: ("encoding-plus",),
    Fault.RAW_HEADS: (
        *(id_ for id_ in _beginning("syntax-") if id_ not in _OTHER_SYNTAX),
        "method-connect",
        "chunk-extension",
    ),
    Fault.RENEGOTIATES: ("renegotiation",),
    Fault.RESUMES: ("resumption-proves", "resumption-names"),
    Fault.RESUMES_ANONYMOUS: ("resumption-keeps",),
    Fault.SHARES: ("back-end-extra", "back-end-broken", "back-end-interim", "back-end-bound"),
    Fault.SIBLINGS: tuple(probe.id for probe in PROBES if probe.id.startswith("sibling-")),
    Fault.SPACES: ("encoding-space",),
    Fault.STICKY: ("absent-after-other", "clients-alternating", "clients-fresh"),
    Fault.SUBJECT: ("certificate-injection",),
    Fault.TRACES: ("method-trace",),
    Fault.TUNNELS: (
        *(
            probe.id
            for probe in PROBES
            if probe.id.startswith("framing-")
            and probe.id not in {"framing-body-request", "framing-expect"}
        ),
        "pipeline-identity",
    ),
    Fault.UNBOUNDED: ("slow-head", "many-fields", "long-head", "many-requests"),
    Fault.UNDERSCORES: ("twin-underscores", "twin-first", "twin-both"),
    Fault.UPGRADES: ("upgrade-h2c", "upgrade-websocket"),
    Fault.VERIFIED: ("absent-verified",),
}
# No terminator with OpenSSL can have these faults: tests of their own show their findings.
ELSEWHERE = {"certificate-possession", "direct"}


class ImpatientLab(Lab):
    """A lab with short timeouts, for a terminator with small limits."""

    slow_seconds = 3.0
    many_requests = 150


class AuditTestCase(SynchronousTestCase):
    timeout = 300

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="x509proxy-audit-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.recorder = Recorder(Listener(host="127.0.0.1"))
        self.addCleanup(self.recorder.stop)
        self.store = Store(self.folder)

    def lab(self, *faults: Fault, form: Format = Format.PEM_URL, direct: bool = False) -> Lab:
        """Start a terminator with these faults; return the lab of its audit."""
        terminator = Terminator(self.recorder.port, *faults, form=form)
        self.addCleanup(terminator.stop)
        place = "127.0.0.1"
        target = Target(
            Address(place, terminator.port, "localhost"),
            (Field(HEADER, form),),
            direct=Address(place, self.recorder.port if direct else 1, place),
            plain=Address(place, terminator.plain_port, "localhost"),
            paths=(b"/given",),
            other_names=("other.localhost",),
        )
        # Ten thousand fields take long on a busy machine.
        patience = 15.0 if Fault.UNBOUNDED in faults else 2.0
        pace = Pace(rate=1000.0, response_seconds=patience, quiet=0.02)
        lab = ImpatientLab(target, Recording(self.recorder), self.store, pace)
        check_reachable(lab)
        return lab

    def play(self, lab: Lab, *probes: Probe) -> dict[str, Result]:
        """Run the probes; return their results by id."""
        return {result.probe.id: result for result in run(lab, probes)}

    def sound(self, *probes: Probe) -> None:
        """Check that the probes pass on a terminator without faults."""
        for name, result in self.play(self.lab(), *probes).items():
            if name.startswith("h2-"):
                self.assertIs(Outcome.NOT_APPLICABLE, result.outcome, name)
            else:
                self.assertEqual((Outcome.PASSED, ()), (result.outcome, result.faults), name)

    def finds(self, fault: Fault, *probes: Probe) -> None:
        """Check that the probes find a fault."""
        # A probe on a shared connection can change the result of the next one.
        batches = [(probe,) for probe in probes] if fault is Fault.SHARES else [probes]
        results: dict[str, Result] = {}
        for batch in batches:
            results |= self.play(self.lab(fault), *batch)
        silent = {
            name: each.reason
            for name, each in results.items()
            if each.outcome is not Outcome.FAILED
        }
        self.assertEqual({}, silent)
        for result in results.values():
            self.assertTrue(result.evidence or result.faults)


def add_fault_tests(case: type[AuditTestCase], probes: Sequence[Probe]) -> None:
    """Add a test for each fault that some of the probes must find."""
    for fault, names in FINDS.items():
        if finding := [probe for probe in probes if probe.id in names]:
            _add(case, fault, finding)


def _add(case: type[AuditTestCase], fault: Fault, probes: Sequence[Probe]) -> None:
    def test(self: AuditTestCase) -> None:
        self.finds(fault, *probes)

    test.__doc__ = f"A terminator that {fault.value} is found."
    setattr(case, f"test_finds_{fault.name.lower()}", test)
