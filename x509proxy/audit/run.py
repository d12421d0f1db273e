"""The run of an audit: all probes, one after another, with their results."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable, Iterator

import attrs

from x509proxy.audit.lab import Exchange, Lab, get
from x509proxy.audit.probe import NotApplicable, Probe, Severity
from x509proxy.settings import SettingsError

__all__ = ["Outcome", "Result", "check_reachable", "failures", "run"]

_MAX_FAULTS = 5
# RFC 6585 section 4, and the status of nginx's limit_req.
_OVERLOADED = frozenset({429, 503})


class Outcome(enum.Enum):
    """The outcome of a probe."""

    PASSED = "pass"
    FAILED = "FAIL"
    NOT_APPLICABLE = "n/a"


@attrs.frozen
class Result:
    """The result of a probe."""

    probe: Probe
    outcome: Outcome
    faults: tuple[str, ...] = ()
    reason: str = ""
    """The reason why the probe does not apply."""
    seconds: float = 0.0
    evidence: tuple[Exchange, ...] = attrs.field(default=(), repr=False)
    """The exchanges of the first fault."""


def check_reachable(lab: Lab) -> bool:
    """Check that an ordinary request arrives; return whether one with a certificate does.

    :raises SettingsError: it does not, so that no probe could find a fault.
    """
    if not _obstacle(lab, "client"):
        return True
    if found := _obstacle(lab, ""):
        raise SettingsError(f"url: found {found} and no request at the back end, expected one")
    return False


def _obstacle(lab: Lab, client: str) -> str:
    """Send an ordinary request; return what came in place of its arrival, ``""`` if it arrived."""
    exchange = lab.send(get(), client)
    if exchange.arrived:
        return ""
    return f"status {exchange.status}" if exchange.status else exchange.alert or "no response"


def run(
    lab: Lab, probes: Iterable[Probe], progress: Callable[[Result], None] = lambda _: None
) -> Iterator[Result]:
    """Run all probes, and yield their results.

    :raises SettingsError: the terminator rejects ordinary requests too.
    """
    for probe in probes:
        result = _one(lab, probe)
        if result.outcome is Outcome.PASSED:
            _check_served(lab, probe)
        progress(result)
        yield result


def _check_served(lab: Lab, probe: Probe) -> None:
    """Check that no limit of requests or bans, and no back end that is down, passed a probe.

    :raises SettingsError: one may have.
    """
    statuses = [each.status for each in lab.transcript if not each.arrived]
    overloaded = next((status for status in statuses if status in _OVERLOADED), None)
    found = f"status {overloaded}" if overloaded else ""
    found = found or (_obstacle(lab, "client") and _obstacle(lab, ""))
    if found:
        raise SettingsError(
            f"url: found {found} and no request at the back end in or after probe {probe.id}, "
            "expected one: no limit of the terminator for this address, or a lower --rate"
        )


def _one(lab: Lab, probe: Probe) -> Result:
    lab.transcript.clear()
    start = time.monotonic()
    faults: dict[str, None] = {}
    seen = 0
    try:
        for fault in probe.script(lab):
            seen = seen or len(lab.transcript)
            faults[fault] = None
    except NotApplicable as reason:
        if not faults:
            return Result(probe, Outcome.NOT_APPLICABLE, reason=str(reason))
    outcome = Outcome.FAILED if faults else Outcome.PASSED
    evidence = tuple(lab.transcript[max(0, seen - 1) : seen] if faults else ())
    seconds = time.monotonic() - start
    return Result(probe, outcome, tuple(faults)[:_MAX_FAULTS], "", seconds, evidence)


def failures(results: Iterable[Result], least: Severity = Severity.LOW) -> list[Result]:
    """Return the failed results of this severity or worse, the worst first."""
    failed = [each for each in results if each.outcome is Outcome.FAILED]
    counted = [each for each in failed if each.probe.severity.rank <= least.rank]
    return sorted(counted, key=lambda each: each.probe.severity.rank)
