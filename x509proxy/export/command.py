"""The command ``x509proxy export``: from a TOML file to another product's configuration."""

from __future__ import annotations

from x509proxy.export import apache, caddy, envoy, haproxy, nginx
from x509proxy.export.plan import Exported, Renderer, read_plan

__all__ = ["RENDERERS", "export"]

RENDERERS: dict[str, Renderer] = {
    "nginx": nginx.render,
    "haproxy": haproxy.render,
    "apache": apache.render,
    "caddy": caddy.render,
    "envoy": envoy.render,
}


def export(product: str, path: str) -> Exported:
    """Return the configuration and the limits.

    :raises SettingsError: the file is invalid, or the product cannot write a format.
    """
    return RENDERERS[product](read_plan(product, path))
