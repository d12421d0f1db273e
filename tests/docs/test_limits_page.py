"""Promises of ``docs/limits.rst``: it has every limit, with its default."""

from __future__ import annotations

import re

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from tests.support.pages import read_page
from x509proxy.certificates.config_files import _LARGEST
from x509proxy.certificates.pem_files import _LARGEST_CRL
from x509proxy.http1.body import _MAX_SIZE_LINE, _MAX_TRAILERS
from x509proxy.settings import ClientSettings, ProxySettings, Settings, UpstreamSettings
from x509proxy.transport.tls_context import _MOST_ISSUERS
from x509proxy.transport.tls_stream import _AT_ONCE, _MOST_EMPTY

PAGE = read_page("limits")
_ROW = re.compile(r"^   \* - ``([a-z-]+)``\n     - (\d+(?: \w+)?)$", re.MULTILINE)
_UNITS = {"s": 1, "KiB": 1024, "MiB": 1024 * 1024, "": 1}


def number(text: str) -> float:
    """Return a size, a time or a count."""
    amount, _, unit = text.partition(" ")
    return int(amount) * _UNITS[unit]


def numbers(defaults: Settings) -> dict[str, float]:
    """Return the keys that have a number for their default."""
    values = msgspec.to_builtins(defaults).items()
    return {name: value for name, value in values if type(value) in (int, float)}


def table(head: str) -> dict[str, float]:
    """Return the rows of one table of the page."""
    body = PAGE.partition(f"   * - {head}\n")[2].partition("\n\n")[0]
    return {name: number(text) for name, text in _ROW.findall(f"{body}\n")}


class Tables(SynchronousTestCase):
    def test_client(self) -> None:
        """Every number of ``[client]`` is in the table with its default, and no other."""
        self.assertEqual(numbers(ClientSettings()), table("``[client]``"))

    def test_upstream(self) -> None:
        """The same holds for ``[upstream]``."""
        self.assertEqual(numbers(UpstreamSettings()), table("``[upstream]``"))

    def test_first_level(self) -> None:
        """So it does for the first level, but for the number of workers, which is no limit."""
        self.assertEqual(numbers(ProxySettings()), table("first level") | {"workers": 1})

    def test_unset(self) -> None:
        """The limits that are off by default are named, and they are."""
        settings = ClientSettings()
        self.assertEqual(
            (None, None, ()),
            (
                settings.max_connections_per_address,
                settings.handshake_rate_per_address,
                settings.allowed_hosts,
            ),
        )
        for name in ("max-connections-per-address", "handshake-rate-per-address", "allowed-hosts"):
            self.assertIn(f"\n``{name}``\n    ", PAGE)


class Constants(SynchronousTestCase):
    def test_constants(self) -> None:
        """The limits without a setting are those of the code."""
        section = PAGE.partition("\nLimits without a setting\n")[2]
        for text in (
            f"{_MOST_ISSUERS} issuers",
            f"{_MOST_EMPTY} TLS records more",
            f"{_AT_ONCE} TLS records of one connection",
            f"{_MAX_SIZE_LINE} bytes in the line",
            f"{_MAX_TRAILERS} bytes of trailer fields",
            f"{_LARGEST >> 20} MiB in a file of certificates",
            f"{_LARGEST_CRL >> 20} MiB in one of revocation lists",
        ):
            self.assertIn(text, section)
