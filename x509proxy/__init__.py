"""A reverse proxy that terminates TLS and passes the client's certificate on (RFC 8705).

``X509ProxyResource`` and its companions are imported at their first use, so that the scan of
plugins by ``twistd`` stays fast. The module of ``X509ProxyResource`` also installs a reactor, with
which ``twistd --reactor=asyncio`` would fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from x509proxy.certificates.client_certificate import ClientCertificate, Flag, Verdict
from x509proxy.exchange import Exchange, Observer, Outcome

if TYPE_CHECKING:
    from x509proxy.downstream.factory import ProxyFactory
    from x509proxy.resource import X509ProxyResource
    from x509proxy.transport.tls_context import ServerConnections, client_certificate, make_context

__all__ = [
    "ClientCertificate",
    "Exchange",
    "Flag",
    "Observer",
    "Outcome",
    "ProxyFactory",
    "ServerConnections",
    "Verdict",
    "X509ProxyResource",
    "client_certificate",
    "make_context",
]

_LATE = {
    "ProxyFactory": "x509proxy.downstream.factory",
    "ServerConnections": "x509proxy.transport.tls_context",
    "X509ProxyResource": "x509proxy.resource",
    "client_certificate": "x509proxy.transport.tls_context",
    "make_context": "x509proxy.transport.tls_context",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'x509proxy' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATE[name]), name)
