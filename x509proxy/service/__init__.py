"""The twistd service: listening, reload, workers, admin, systemd. ``Options`` and ``makeService`` are what twistd asks for."""

from __future__ import annotations

from typing import Any

__all__ = ["Options", "makeService"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from x509proxy.service import options

    return getattr(options, name)
