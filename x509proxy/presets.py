"""Authorization servers as data: which header each of them trusts, and how it wants the certificate written."""

from __future__ import annotations

import attrs

from x509proxy.encoding import Format
from x509proxy.settings import SettingsError

__all__ = ["PRESETS", "HeaderPlan", "Preset", "find_preset"]


@attrs.frozen
class HeaderPlan:
    """One header to send. An empty ``name`` stands for the name that the administrator chose and keeps secret."""

    form: Format
    name: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen
class Preset:
    """One server. ``server_line``: what goes into the server's own configuration, with ``{name}`` for the chosen name."""

    name: str
    title: str
    plans: tuple[HeaderPlan, ...]
    server_line: str = ""

    @property
    def needs_name(self) -> bool:
        """Whether the administrator chooses the header's name."""
        return any(not plan.name for plan in self.plans)


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        # connect2id.com/products/server/docs/guides/tls-proxy
        Preset("connect2id", "Connect2id server", (HeaderPlan(Format.PEM),), "op.tls.clientX509CertHeader = {name}"),
        # RFC 9440; Keycloak's rfc9440 look-up reads the same two names.
        Preset(
            "rfc9440",
            "Servers that read RFC 9440",
            (HeaderPlan(Format.RFC9440, b"Client-Cert"), HeaderPlan(Format.RFC9440_CHAIN, b"Client-Cert-Chain")),
        ),
        Preset("xfcc", "Servers that read Envoy's header", (HeaderPlan(Format.XFCC, b"X-Forwarded-Client-Cert"),)),
    )
}


def find_preset(name: str) -> Preset:
    """The preset of that name.

    :raises SettingsError: there is none; the sentence lists those there are.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise SettingsError(f"preset: found {name!r}, expected one of {', '.join(PRESETS)}") from None
