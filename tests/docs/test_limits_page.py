"""Promises of ``docs/limits.rst``: it has every limit, with its default."""

from __future__ import annotations

import re

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from tests.support.pages import ROOT, read_page
from x509proxy.settings import (
    ClientSettings,
    ProxySettings,
    Settings,
    TokenLevel,
    TokenSettings,
    UpstreamSettings,
)

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
        """The same holds for the first level, without the number of workers, which is no limit."""
        self.assertEqual(numbers(ProxySettings()), table("first level") | {"workers": 1})

    def test_tokens(self) -> None:
        """The same holds for ``[tokens]``."""
        defaults = TokenSettings(level=TokenLevel.UNVERIFIED)
        self.assertEqual(numbers(defaults), table("``[tokens]``"))

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


# A module, the value of a constant in it, and the words of the page.
_CONSTANTS = (
    ("transport/tls_context.py", "10", "10 issuers"),
    ("transport/tls_stream.py", "64", "64 TLS records more"),
    ("transport/tls_stream.py", "128", "128 TLS records of one connection"),
    ("downstream/channel.py", "8 << 20", "8 MiB from a client"),
    ("transport/tls_stream.py", "1 << 20", "1 MiB from a client"),
    ("http1/request_target.py", "256", "256 percent signs in a path"),
    ("http1/request_parser.py", "1024", "1024 chunks in the body of a request"),
    ("http1/body.py", "64", "one more for each 64 bytes of it"),
    ("http1/body.py", "1024", "1024 bytes in the line"),
    ("http1/body.py", "4096", "4096 bytes of trailer fields"),
    ("http1/response_parser.py", "16", "16 interim responses"),
    ("authorization/token_cache.py", "16 << 20", "16 MiB of accepted access tokens"),
    ("authorization/token_check.py", "1 << 20", "1 MiB of rejected ones"),
    ("transport/proxy_protocol.py", "2048", "2048 bytes of addresses and TLVs"),
    ("certificates/config_files.py", "4 << 20", "4 MiB in a file of certificates"),
    ("certificates/pem_files.py", "16 << 20", "16 MiB in one of revocation lists"),
)


class Constants(SynchronousTestCase):
    def test_constants(self) -> None:
        """The limits without a setting are constants of the code, and the section has no other."""
        section = PAGE.partition("\nLimits without a setting\n")[2]
        for module, value, text in _CONSTANTS:
            source = (ROOT / "x509proxy" / module).read_text("utf-8")
            self.assertRegex(source, rf"(?m)^_[A-Z_]+ = {re.escape(value)}(?:$| +#)", module)
            self.assertIn(text, section)
        rows = re.findall(r"^   \* - (?!limit)(.*)$", section, re.MULTILINE)
        self.assertEqual(len(_CONSTANTS), sum(len(re.findall(r"\d+", row)) for row in rows))
