"""One promise of a terminator: its id, its severity, its origin, and the script that tests it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from x509proxy.audit.lab import Lab

__all__ = [
    "Group",
    "NotApplicable",
    "Probe",
    "Product",
    "Remedies",
    "Script",
    "Severity",
    "Watch",
    "remedies",
]


class Group(enum.Enum):
    """The subject of a probe."""

    ABSENCE = "no certificate"
    NAMES = "forged names"
    SYNTAX = "header syntax"
    SIBLINGS = "other certificate headers"
    TARGETS = "methods and targets"
    FRAMING = "message framing"
    HOSTS = "server names and hosts"
    TLS = "TLS"
    CERTIFICATES = "certificates"
    ENCODING = "encoding"
    CONNECTIONS = "connections"
    HTTP2 = "HTTP/2"
    REACH = "other ways to the back end"
    HOSTILE = "denial of service"


class Severity(enum.Enum):
    """The consequence of a failure, the worst first."""

    CRITICAL = "critical"
    """A client can pass as any other client."""
    HIGH = "high"
    """One more mistake, or one kind of back end, and a client can pass as another."""
    MEDIUM = "medium"
    """A client loses its identity, or a defence in depth is missing."""
    LOW = "low"
    """Clients are rejected without need, or learn more than they need."""

    @property
    def rank(self) -> int:
        """The place in the order, 0 for the worst."""
        return list(Severity).index(self)


class Product(enum.Enum):
    """A terminator that remedies are written for."""

    NGINX = "nginx"
    HAPROXY = "HAProxy"
    APACHE = "Apache"
    CADDY = "Caddy"
    ENVOY = "Envoy"
    TRAEFIK = "Traefik"


class Watch(enum.Enum):
    """The kind of back end that a probe needs."""

    ANY = "any"
    RECORDER = "the recording back end (--listen)"
    """The bytes that arrived, or a back end that responds as told."""


class NotApplicable(Exception):
    """This terminator, or this run, has nothing to test; the text is the reason."""


Script = Callable[["Lab"], Iterator[str]]
"""Sends requests, and yields one sentence for each fault found."""
Remedies = tuple[tuple[Product, str], ...]


def remedies(**lines: str) -> Remedies:
    """Return remedies by product, in the order of :class:`Product`."""
    return tuple(
        (product, lines[product.name.lower()])
        for product in Product
        if product.name.lower() in lines
    )


@attrs.frozen
class Probe:
    """One promise. ``reference``: the CVE, advisory or RFC section that it comes from."""

    id: str
    group: Group
    severity: Severity
    promise: str
    reference: str
    script: Script = attrs.field(repr=False)
    remedies: Remedies = attrs.field(default=(), repr=False)
    watch: Watch = Watch.ANY

    @property
    def hostile(self) -> bool:
        """Return whether the probe is a denial of service, sent with ``--hostile`` alone."""
        return self.group is Group.HOSTILE
