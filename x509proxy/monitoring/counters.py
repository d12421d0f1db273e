"""What is counted: one object that is told of everything that happens, its null twin, and its numbers as a frozen value.

Facts
-----
* Exchanges are put aside and counted 64 at a time: one by one, code and tables would not be in the processor's cache. Numbers and
  dictionaries are all there is; whoever looks at them does the rest (:mod:`x509proxy.monitoring.snapshot`, :mod:`x509proxy.monitoring.prometheus`).
* No key in here is of a client's choosing: an attacker who could choose one could make a table grow without end. A status is the
  back end's, and has three digits; a back end is the administrator's; everything else is a word of ours.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from x509proxy.certificates.client_certificate import ClientCertificate, Verdict
from x509proxy.exchange import Exchange, Outcome, TokenVerdict
from x509proxy.monitoring.reason_codes import LIMITS

__all__ = [
    "BOUNDS",
    "KEY_EXCHANGES",
    "NULL_METRICS",
    "CertificateUsage",
    "Counters",
    "Counts",
    "MetricsObserver",
]

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: where the bins of the durations end, the last one being without an end."""
_LATEST = 50  # refusals, and certificates
_BATCH = 64
# By the numbers that they have on the wire (RFC 8446 section 4.1.2, RFC 5246 appendix E): pyOpenSSL's are the same.
_TLS_VERSIONS = {0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}
KEY_EXCHANGES = (
    "X25519MLKEM768",
    "SecP256r1MLKEM768",
    "SecP384r1MLKEM1024",
    "x25519",
    "secp256r1",
    "secp384r1",
    "secp521r1",
    "x448",
)
"""The key exchange groups that are counted by name, as OpenSSL spells them; a client chooses from what OpenSSL offers."""
# Looked up here, not at the class: that costs as much as to count.
_ANSWERED, _REFUSED = Outcome.COMPLETED, Outcome.REJECTED
_UNCHECKED = TokenVerdict.UNCHECKED


class MetricsObserver(Protocol):
    """Whoever is told of what happens. Nothing in here may raise, or take its time."""

    def exchange(self, exchange: Exchange) -> None:
        """A request has been answered, or not."""

    def handshake_succeeded(self, version: int, key_exchange: str) -> None:
        """Count a finished handshake. ``version``: as on the wire; ``key_exchange``: OpenSSL's name of the group."""

    def handshake_failed(self, reason: str) -> None:
        """One has failed. ``reason``: a word of :mod:`x509proxy.monitoring.reason_codes`."""

    def limited(self, limit: str) -> None:
        """A connection was not taken. ``limit``: the setting that says so."""

    def reloaded(self, error: str = "", note: str = "") -> None:
        """Count a reload. ``error``: its failure; ``note``: files that need a restart if changed."""

    def log_lines_dropped(self, log: str, lines: int) -> None:
        """Lines were not written. ``log``: ``access`` or ``service``."""


class _Unwatched:
    """Nobody looks."""

    def exchange(self, exchange: Exchange) -> None: ...
    def handshake_succeeded(self, version: int, key_exchange: str) -> None: ...
    def handshake_failed(self, reason: str) -> None: ...
    def limited(self, limit: str) -> None: ...
    def reloaded(self, error: str = "", note: str = "") -> None: ...
    def log_lines_dropped(self, log: str, lines: int) -> None: ...


NULL_METRICS: MetricsObserver = _Unwatched()
"""The twin of the counters that counts nothing."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """All numbers at one moment; they only grow, and those of several processes can be added.

    ``exchanges``: by back end (none: ``""``), outcome and status. ``durations``: how many answered exchanges took as long as
    each bin of :data:`BOUNDS` and no longer, not added up; ``seconds``: all of them together. ``bytes_in``, ``bytes_out``: of
    bodies. ``limits``: connections that were not taken; ``refusals``: by a word of :mod:`x509proxy.monitoring.reason_codes`.
    """

    handshakes: dict[str, int] = {}
    key_exchanges: dict[str, int] = {}
    handshake_failures: dict[str, int] = {}
    limits: dict[str, int] = {}
    exchanges: dict[str, dict[str, dict[int, int]]] = {}
    refusals: dict[str, int] = {}
    verdicts: dict[str, int] = {}
    tokens: dict[str, int] = {}
    forged: int = 0
    invalid_header_names: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    durations: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    seconds: float = 0.0
    reloads: dict[str, int] = {}
    log_lines_dropped: dict[str, int] = {}

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            **{
                name: _sum(getattr(self, name), getattr(other, name))
                for name in self.__struct_fields__
            }
        )

    def limits_met(self) -> dict[str, int]:
        """How often each limit was met, by the setting that has it: connections that were not taken, and refusals."""
        met = dict(self.limits)
        for word, limit in LIMITS.items():
            if count := self.refusals.get(word, 0):
                met[limit] = met.get(limit, 0) + count
        return met

    def total(self, outcome: str | None = None) -> int:
        """How many exchanges there were, with this outcome or with any."""
        found = (
            statuses
            for each in self.exchanges.values()
            for name, statuses in each.items()
            if outcome in (None, name)
        )
        return sum(sum(statuses.values()) for statuses in found)


def _sum(one: Any, other: Any) -> Any:
    match one:
        case dict():
            both = one.keys() & other.keys()
            return {**one, **other, **{key: _sum(one[key], other[key]) for key in both}}
        case tuple():
            return tuple(map(sum, zip(one, other, strict=True)))
    return one + other


class CertificateUsage:
    """A client's certificate that was shown, how often it came with a request, and when it did last (seconds since the epoch)."""

    __slots__ = ("certificate", "last", "requests", "verdict")

    def __init__(self, certificate: ClientCertificate) -> None:
        self.certificate = certificate
        self.verdict = certificate.verdict.value
        self.requests = 0
        self.last = 0.0


class Counters:
    """The numbers of one process, the latest refusals, and the certificates that came last."""

    def __init__(self) -> None:
        self._uncounted: list[Exchange] = []
        self._refused: deque[Exchange] = deque(maxlen=_LATEST)
        self._seen: dict[str, CertificateUsage] = {}
        self.reload_error = self.reload_note = ""
        self.reload_failed_at = 0.0
        self.loaded_at = time.time()
        self._answered: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._others: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self._durations = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0
        self._bytes_in = self._bytes_out = 0
        self._forged = self._odd_names = 0
        self._tokens = {each.value: 0 for each in TokenVerdict if each is not _UNCHECKED}
        self._verdicts = {verdict.value: 0 for verdict in Verdict}
        self._refusals: defaultdict[str, int] = defaultdict(int)
        self._versions: defaultdict[int, int] = defaultdict(int)
        self._key_exchanges: defaultdict[str, int] = defaultdict(int)
        self._failures: defaultdict[str, int] = defaultdict(int)
        self._limits: defaultdict[str, int] = defaultdict(int)
        self._reloads = {"success": 0, "failure": 0}
        self._log_lines_dropped = {"access": 0, "service": 0}

    # What happens.

    def exchange(self, exchange: Exchange) -> None:
        uncounted = self._uncounted
        uncounted.append(exchange)
        if len(uncounted) >= _BATCH:
            self._count()

    def handshake_succeeded(self, version: int, key_exchange: str) -> None:
        self._versions[version] += 1
        self._key_exchanges[key_exchange if key_exchange in KEY_EXCHANGES else "other"] += 1

    def handshake_failed(self, reason: str) -> None:
        self._failures[reason] += 1

    def limited(self, limit: str) -> None:
        self._limits[limit] += 1

    def reloaded(self, error: str = "", note: str = "") -> None:
        self.reload_error, self.reload_note = error, note
        self._reloads["failure" if error else "success"] += 1
        if error:
            self.reload_failed_at = time.time()
        else:
            self.loaded_at = time.time()

    def log_lines_dropped(self, log: str, lines: int) -> None:
        self._log_lines_dropped[log] += lines

    # What has happened.

    @property
    def refused(self) -> deque[Exchange]:
        """The latest exchanges that were refused, newest last."""
        self._count()
        return self._refused

    @property
    def seen(self) -> dict[str, CertificateUsage]:
        """The certificates that came last, by thumbprint."""
        self._count()
        return self._seen

    def counts(self) -> Counts:
        """The numbers as they are now."""
        self._count()
        return Counts(
            handshakes=_named(self._versions.items()),
            key_exchanges=dict(self._key_exchanges),
            handshake_failures=dict(self._failures),
            limits=dict(self._limits),
            exchanges=self._exchanges(),
            refusals=dict(self._refusals),
            verdicts=dict(self._verdicts),
            tokens=dict(self._tokens),
            forged=self._forged,
            invalid_header_names=self._odd_names,
            bytes_in=self._bytes_in,
            bytes_out=self._bytes_out,
            durations=tuple(self._durations),
            seconds=self._seconds,
            reloads=dict(self._reloads),
            log_lines_dropped=dict(self._log_lines_dropped),
        )

    # Inside.

    def _count(self) -> None:
        uncounted, self._uncounted = self._uncounted, []
        answered, durations, verdicts, known = (
            self._answered,
            self._durations,
            self._verdicts,
            self._seen,
        )
        for exchange in uncounted:
            if exchange.outcome is _ANSWERED:
                answered[exchange.backend, exchange.status] += 1
                duration = exchange.duration
                durations[bisect_left(BOUNDS, duration)] += 1
                self._seconds += duration
            else:
                self._not_answered(exchange)
            self._bytes_in += exchange.bytes_in
            self._bytes_out += exchange.bytes_out
            self._forged += exchange.forged
            self._odd_names += exchange.invalid_header_names
            if exchange.token is not _UNCHECKED:
                self._tokens[exchange.token.value] += 1
            certificate = exchange.certificate
            if certificate is None:
                verdicts["NONE"] += 1
                continue
            seen = known.get(certificate.thumbprint)
            if seen is None or seen.certificate is not certificate:
                seen = self._meet(certificate, seen)
            seen.requests += 1
            seen.last = exchange.started
            verdicts[seen.verdict] += 1

    def _not_answered(self, exchange: Exchange) -> None:
        self._others[exchange.backend, exchange.outcome.value, exchange.status] += 1
        self._refusals[exchange.code.label if exchange.code else "other"] += 1
        if exchange.outcome is _REFUSED:
            self._refused.append(exchange)

    def _meet(
        self, certificate: ClientCertificate, known: CertificateUsage | None
    ) -> CertificateUsage:
        """A certificate that is not in the table, or has another verdict there; the one not seen for longest makes room."""
        new = CertificateUsage(certificate)
        if known is not None:
            new.requests = known.requests
        elif len(self._seen) >= _LATEST:
            del self._seen[
                min(self._seen.values(), key=lambda seen: seen.last).certificate.thumbprint
            ]
        self._seen[certificate.thumbprint] = new
        return new

    def _exchanges(self) -> dict[str, dict[str, dict[int, int]]]:
        table: dict[str, dict[str, dict[int, int]]] = {}
        for (backend, status), count in self._answered.items():
            table.setdefault(backend, {}).setdefault(_ANSWERED.value, {})[status] = count
        for (backend, outcome, status), count in self._others.items():
            table.setdefault(backend, {}).setdefault(outcome, {})[status] = count
        return table


def _named(versions: Iterable[tuple[int, int]]) -> dict[str, int]:
    return {_TLS_VERSIONS.get(version, "other"): count for version, count in versions}
