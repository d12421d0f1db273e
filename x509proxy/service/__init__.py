"""The ``twistd`` service: options, listening, reload, workers, the admin listener and systemd.

``twistd x509proxy`` asks this package for :class:`Options` and :func:`makeService` by name, so both
are handed on, lazily: importing the package must not install a reactor.

A :class:`~.server.ProxyServer` is everything that serves in one process. It is made from a
configuration, takes another one in at a reload without losing a connection, and runs either below
:class:`~.proxy_service.ProxyService` or, with ``workers``, in processes of its own that
:mod:`~.supervisor` starts, watches and adds up.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Options", "makeService"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from x509proxy.service import options

    return getattr(options, name)
