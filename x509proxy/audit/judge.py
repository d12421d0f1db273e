"""The rules for exchanges. Each yields a sentence for each fault."""

from __future__ import annotations

import re
from collections.abc import Iterator

from x509proxy.audit import formats
from x509proxy.audit.client import Ending
from x509proxy.audit.lab import Exchange, Field, Lab
from x509proxy.audit.recorder import INCOMPLETE, Arrival

__all__ = [
    "PLACEHOLDERS",
    "accepted",
    "anonymous",
    "explained",
    "forged",
    "framing",
    "genuine",
    "kept",
    "never_anonymous",
    "never_arrived",
    "present",
]

PLACEHOLDERS = (b"", b"-", b"(null)", b'""', b"null", b"none", b"undefined")
"""The values, in lower case, that products send in place of a missing certificate."""


def _name(name: bytes) -> str:
    return name.decode("latin-1")


def _identity(lab: Lab, arrival: Arrival) -> Iterator[tuple[bytes, bytes]]:
    """Yield the fields that a server may take for one with the certificate."""
    seen = [*arrival.pairs, *_lines(arrival)]
    return (pair for pair in seen if formats.folds(pair[0]) in lab.folded)


def _lines(arrival: Arrival) -> Iterator[tuple[bytes, bytes]]:
    """Yield the lines of the head as a server splits them that accepts any CR or LF."""
    for line in re.split(rb"[\r\n]+", arrival.raw.partition(b"\r\n\r\n")[0]):
        name, _, value = line.partition(b":")
        yield name.strip(), value


def forged(lab: Lab, exchange: Exchange) -> Iterator[str]:
    """Yield a fault for each forged value under a name that a server may read."""
    # The forged result of a verification looks like the genuine one of a trusted client.
    may_be_genuine = exchange.client is not None and exchange.client.is_issued
    results = lab.results if may_be_genuine else ()
    for arrival in exchange.arrived:
        for name, value in _identity(lab, arrival):
            if lab.is_forged(value) and formats.folds(name) not in results:
                yield (
                    f"{_name(name)}: found the forged value at the back end, expected no such field"
                )


def kept(lab: Lab, exchange: Exchange) -> Iterator[str]:
    """Yield a fault for each field that is not there exactly once, with a client certificate."""
    for arrival in exchange.arrived:
        for field in lab.identifying:
            count = len(arrival.values(field.name))
            if exchange.client is not None and count != 1:
                yield f"{_name(field.name)}: found {count} fields at the back end, expected 1"


def genuine(lab: Lab, exchange: Exchange) -> Iterator[str]:
    """Yield a fault for each field that is not the certificate of the handshake, once."""
    yield from kept(lab, exchange)
    if exchange.client is None:
        return
    for arrival in exchange.arrived:
        for field in lab.identifying:
            for value in arrival.values(field.name)[:1]:
                yield from _same(field, value, exchange.client.digest)


def _same(field: Field, value: bytes, digest: str) -> Iterator[str]:
    found = formats.read(field.form, value)
    if found != digest:
        problem = (
            "another certificate" if found else f"no certificate in the format {field.form.value}"
        )
        yield f"{_name(field.name)}: found {problem}, expected the certificate of the handshake"


def present(lab: Lab, exchange: Exchange) -> Iterator[Arrival]:
    """Yield the arrivals in which a field with the certificate has a value of any kind."""
    for arrival in exchange.arrived:
        if any(arrival.values(field.name) for field in lab.identifying):
            yield arrival


def anonymous(lab: Lab, exchange: Exchange) -> Iterator[str]:
    """Yield a fault for each field with a certificate on a connection without one."""
    for arrival in present(lab, exchange):
        for field in lab.identifying:
            for value in arrival.values(field.name):
                if value.strip().lower() not in PLACEHOLDERS:
                    yield f"{_name(field.name)}: found a value without a certificate, expected none"


def accepted(lab: Lab, exchange: Exchange) -> Iterator[str]:
    """Yield a fault if the request did not arrive, or not with the certificate."""
    if not exchange.arrived:
        yield f"found {_ending(exchange)}, expected the request at the back end"
    yield from genuine(lab, exchange)


def explained(exchange: Exchange) -> Iterator[str]:
    """Yield a fault if the request neither arrived nor got a JSON error (RFC 6749)."""
    if exchange.arrived:
        return
    types = [value for response in exchange.responses for value in response.values(b"content-type")]
    json = any(value.startswith(b"application/json") for value in types)
    if not json or not 400 <= exchange.status < 500:
        yield f"found {_ending(exchange)}, expected the request at the back end or a JSON error"


def never_anonymous(lab: Lab, exchange: Exchange) -> Iterator[str]:
    """Yield a fault for a request that arrived without the certificate that was presented."""
    for arrival in exchange.arrived:
        for field in lab.identifying:
            if not any(value for value in arrival.values(field.name)):
                yield (
                    f"{_name(field.name)}: found no certificate at the back end, "
                    "expected it, or no request"
                )


def never_arrived(exchange: Exchange) -> Iterator[str]:
    """Yield a fault if anything arrived."""
    for arrival in exchange.arrived:
        yield (
            f"found {_name(arrival.method)} {_name(arrival.target)} at the back end, "
            "expected nothing"
        )


def framing(exchange: Exchange) -> Iterator[str]:
    """Yield a fault for a request that two servers would read differently."""
    for arrival in exchange.arrived:
        coded, sized = arrival.values(b"transfer-encoding"), arrival.values(b"content-length")
        if coded and sized:
            yield "found Content-Length and Transfer-Encoding at the back end, expected one of them"
        if coded and [value.lower() for value in coded] != [b"chunked"]:
            yield "found an odd Transfer-Encoding at the back end, expected chunked or none"
        if arrival.fault and arrival.fault != INCOMPLETE:
            yield f"found a malformed request at the back end ({arrival.fault}), expected none"


def _ending(exchange: Exchange) -> str:
    if exchange.status:
        return f"status {exchange.status}"
    if exchange.ending is Ending.OPEN:
        return "no response"
    return f"{exchange.ending.value} {exchange.alert}".strip()
