"""Probes: each is a promise of a terminator with its severity, its origin, and a test script."""

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
    """A client can impersonate any other client."""
    HIGH = "high"
    """A client can impersonate another with one more mistake, or with some types of back ends."""
    MEDIUM = "medium"
    """A client loses its identity, or a defence in depth is missing."""
    LOW = "low"
    """Clients are rejected without need, or learn more than they need."""

    @property
    def rank(self) -> int:
        """Return the position in the order, 0 for the worst."""
        return list(Severity).index(self)


class Product(enum.Enum):
    """A terminator that remedies are written for."""

    NGINX = "nginx"
    HAPROXY = "HAProxy"
    APACHE = "Apache"
    CADDY = "Caddy"
    ENVOY = "Envoy"
    TRAEFIK = "Traefik"


class NotApplicable(Exception):
    """A probe that does not apply to this terminator or this run. The text is the reason."""


Script = Callable[["Lab"], Iterator[str]]
"""A function that sends requests and yields a sentence for each fault."""
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
    """A promise of a terminator, and its test."""

    id: str
    group: Group
    severity: Severity
    promise: str
    reference: str
    """The CVE, advisory or RFC section that the promise comes from."""
    script: Script = attrs.field(repr=False)
    remedies: Remedies = attrs.field(default=(), repr=False)

    @property
    def hostile(self) -> bool:
        """Return True for a denial of service, which needs ``--hostile``."""
        return self.group is Group.HOSTILE
