"""The counters of a process, a null implementation, and the counts as a frozen value.

Facts
-----
* Exchanges are counted in batches of 64. One by one, code and tables would not be in the
  processor's cache. :mod:`.snapshot` and :mod:`.prometheus` do all further work at a
  reader's request.
* Clients choose no key of a table here, so that an attack cannot make one grow without limit. A
  status has three digits, the administrator names the back ends, and all other keys are constants.
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
"""Upper bounds of the bins for durations, in seconds. One more bin has no upper bound."""
_MAX_LATEST = 50  # error responses, and certificates
_BATCH = 64
# Protocol versions on the wire (RFC 8446 section 4.1.2, RFC 5246 appendix E), as in pyOpenSSL.
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
"""The key exchange groups that are counted by name, in OpenSSL's spelling."""
# An attribute of the enumeration costs as much as the counting itself.
_COMPLETED, _REJECTED = Outcome.COMPLETED, Outcome.REJECTED
_UNCHECKED = TokenVerdict.UNCHECKED


class MetricsObserver(Protocol):
    """The receiver of all events that are counted. Its methods must be fast and must not raise."""

    def exchange(self, exchange: Exchange) -> None:
        """Count a finished exchange."""

    def handshake_succeeded(self, version: int, key_exchange: str) -> None:
        """Count a finished handshake, with the version on the wire and OpenSSL's group name."""

    def handshake_failed(self, reason: str) -> None:
        """Count a failed handshake, by a label of :mod:`x509proxy.monitoring.reason_codes`."""

    def limited(self, limit: str) -> None:
        """Count a connection that was rejected, by the setting with the limit."""

    def reloaded(self, error: str = "", note: str = "") -> None:
        """Count a reload. ``error`` is the reason if it failed.

        ``note`` names files that need a restart if they have changed.
        """

    def log_lines_dropped(self, log: str, lines: int) -> None:
        """Count lines that were not written to the log ``access`` or ``service``."""


class _NullMetrics:
    """An observer that counts nothing."""

    def exchange(self, exchange: Exchange) -> None: ...
    def handshake_succeeded(self, version: int, key_exchange: str) -> None: ...
    def handshake_failed(self, reason: str) -> None: ...
    def limited(self, limit: str) -> None: ...
    def reloaded(self, error: str = "", note: str = "") -> None: ...
    def log_lines_dropped(self, log: str, lines: int) -> None: ...


NULL_METRICS: MetricsObserver = _NullMetrics()
"""The observer of a process that has no reader of counters."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """All counts at one moment. They only grow, and those of several processes can be added."""

    handshakes: dict[str, int] = {}
    """Finished handshakes, by TLS version."""
    key_exchanges: dict[str, int] = {}
    """Finished handshakes, by key exchange group."""
    handshake_failures: dict[str, int] = {}
    """Failed handshakes, by reason."""
    limits: dict[str, int] = {}
    """Rejected connections, by the setting with the limit."""
    exchanges: dict[str, dict[str, dict[int, int]]] = {}
    """Exchanges by back end (``""`` if there was none), outcome and status."""
    refusals: dict[str, int] = {}
    """Rejected and aborted exchanges, by code."""
    verdicts: dict[str, int] = {}
    """Exchanges, by the verdict of the client's certificate."""
    tokens: dict[str, int] = {}
    """Exchanges, by the verdict of the access token."""
    forged: int = 0
    """Forged header fields that were removed."""
    invalid_header_names: int = 0
    """Header fields that were dropped for their names."""
    bytes_in: int = 0
    """Bytes of request bodies."""
    bytes_out: int = 0
    """Bytes of response bodies."""
    durations: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    """Completed exchanges in each bin of :data:`BOUNDS`, not cumulative."""
    seconds: float = 0.0
    """Sum of the durations of completed exchanges."""
    reloads: dict[str, int] = {}
    """Reloads, by ``success`` or ``failure``."""
    log_lines_dropped: dict[str, int] = {}
    """Lines that were not written, by log."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            **{
                name: _sum(getattr(self, name), getattr(other, name))
                for name in self.__struct_fields__
            }
        )

    def exceeded_limits(self) -> dict[str, int]:
        """Return rejected connections and requests, by the setting with the exceeded limit."""
        exceeded = dict(self.limits)
        for label, limit in LIMITS.items():
            if count := self.refusals.get(label, 0):
                exceeded[limit] = exceeded.get(limit, 0) + count
        return exceeded

    def total(self, outcome: str | None = None) -> int:
        """Return the number of exchanges, with one outcome or with any."""
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
    """A client's certificate with its number of requests and the time of the last one.

    ``last`` is in seconds since the epoch.
    """

    __slots__ = ("certificate", "last", "requests", "verdict")

    def __init__(self, certificate: ClientCertificate) -> None:
        self.certificate = certificate
        self.verdict = certificate.verdict.value
        self.requests = 0
        self.last = 0.0


class Counters:
    """The counters of a process, with its latest error responses and client certificates."""

    def __init__(self) -> None:
        self._uncounted: list[Exchange] = []
        self._rejected: deque[Exchange] = deque(maxlen=_MAX_LATEST)
        self._certificates: dict[str, CertificateUsage] = {}
        self.reload_error = self.reload_note = ""
        self.reload_failed_at = 0.0
        self.loaded_at = time.time()
        self._completed: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._others: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self._durations = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0
        self._bytes_in = self._bytes_out = 0
        self._forged = self._invalid_names = 0
        self._tokens = {each.value: 0 for each in TokenVerdict if each is not _UNCHECKED}
        self._verdicts = {verdict.value: 0 for verdict in Verdict}
        self._codes: defaultdict[str, int] = defaultdict(int)
        self._versions: defaultdict[int, int] = defaultdict(int)
        self._key_exchanges: defaultdict[str, int] = defaultdict(int)
        self._failures: defaultdict[str, int] = defaultdict(int)
        self._limits: defaultdict[str, int] = defaultdict(int)
        self._reloads = {"success": 0, "failure": 0}
        self._log_lines_dropped = {"access": 0, "service": 0}

    # Events (MetricsObserver).

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

    # Results.

    @property
    def rejected(self) -> deque[Exchange]:
        """Return the latest rejected exchanges, newest last."""
        self._count()
        return self._rejected

    @property
    def certificates(self) -> dict[str, CertificateUsage]:
        """Return the latest client certificates, by thumbprint."""
        self._count()
        return self._certificates

    def counts(self) -> Counts:
        """Return the current counts."""
        self._count()
        return Counts(
            handshakes=_by_version(self._versions.items()),
            key_exchanges=dict(self._key_exchanges),
            handshake_failures=dict(self._failures),
            limits=dict(self._limits),
            exchanges=self._exchanges(),
            refusals=dict(self._codes),
            verdicts=dict(self._verdicts),
            tokens=dict(self._tokens),
            forged=self._forged,
            invalid_header_names=self._invalid_names,
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
        # Local names save attribute look-ups in the loop.
        completed, durations = self._completed, self._durations
        verdicts, certificates = self._verdicts, self._certificates
        for exchange in uncounted:
            if exchange.outcome is _COMPLETED:
                completed[exchange.backend, exchange.status] += 1
                duration = exchange.duration
                durations[bisect_left(BOUNDS, duration)] += 1
                self._seconds += duration
            else:
                self._count_failed(exchange)
            self._bytes_in += exchange.bytes_in
            self._bytes_out += exchange.bytes_out
            self._forged += exchange.forged
            self._invalid_names += exchange.invalid_header_names
            if exchange.token is not _UNCHECKED:
                self._tokens[exchange.token.value] += 1
            certificate = exchange.certificate
            if certificate is None:
                verdicts["NONE"] += 1
                continue
            usage = certificates.get(certificate.thumbprint)
            if usage is None or usage.certificate is not certificate:
                usage = self._add_certificate(certificate, usage)
            usage.requests += 1
            usage.last = exchange.started
            verdicts[usage.verdict] += 1

    def _count_failed(self, exchange: Exchange) -> None:
        self._others[exchange.backend, exchange.outcome.value, exchange.status] += 1
        self._codes[exchange.code.label if exchange.code else "other"] += 1
        if exchange.outcome is _REJECTED:
            self._rejected.append(exchange)

    def _add_certificate(
        self, certificate: ClientCertificate, known: CertificateUsage | None
    ) -> CertificateUsage:
        """Add a certificate, or one with another verdict than ``known``, and return its usage.

        If the table is full, the certificate that was not used for the longest time is removed.
        """
        new = CertificateUsage(certificate)
        if known is not None:
            new.requests = known.requests
        elif len(self._certificates) >= _MAX_LATEST:
            oldest = min(self._certificates.values(), key=lambda usage: usage.last)
            del self._certificates[oldest.certificate.thumbprint]
        self._certificates[certificate.thumbprint] = new
        return new

    def _exchanges(self) -> dict[str, dict[str, dict[int, int]]]:
        table: dict[str, dict[str, dict[int, int]]] = {}
        for (backend, status), count in self._completed.items():
            table.setdefault(backend, {}).setdefault(_COMPLETED.value, {})[status] = count
        for (backend, outcome, status), count in self._others.items():
            table.setdefault(backend, {}).setdefault(outcome, {})[status] = count
        return table


def _by_version(versions: Iterable[tuple[int, int]]) -> dict[str, int]:
    return {_TLS_VERSIONS.get(version, "other"): count for version, count in versions}
