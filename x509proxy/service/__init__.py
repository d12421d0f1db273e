"""The ``twistd`` service: options, listening, reload, workers, the admin listener and systemd.

``twistd x509proxy`` looks up :class:`Options` and :func:`makeService` here by name. They are
imported on first access, so that a module of this package can be imported without the others.

A :class:`~.server.ProxyServer` is everything that serves in one process. It is made from a
configuration, and a reload gives it another one without losing a connection. It runs below
:class:`~.proxy_service.ProxyService`. With ``workers`` there is one in each worker process, which
:mod:`~.supervisor` starts and monitors.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Options", "makeService"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from x509proxy.service import options

    return getattr(options, name)
