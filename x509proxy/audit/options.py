"""The options of ``x509proxy audit``, without imports of the other modules."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import attrs

from x509proxy.audit.probe import Severity
from x509proxy.settings import Format

__all__ = ["FORMATS", "Options", "configure"]

FORMATS = {form.value: form for form in Format if form is not Format.TOKEN_CLAIMS}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("url", nargs="?", help="the terminator: https://as.example.com")
    add = parser.add_argument
    add("--preset", help="the authorization server, for the header's name and format")
    add("--header", help="the header's name; for a secret one use --header-file")
    add("--header-file", type=Path, metavar="FILE", help="a file with the secret header name")
    add("--format", choices=sorted(FORMATS), help="the format of the header's value (pem-url)")
    add(
        "--listen",
        metavar="STRPORTS",
        help="record here, where the terminator forwards to (default: an x509proxy echo is there)",
    )
    add(
        "--connect",
        metavar="HOST:PORT",
        help="connect here, and use the URL's name in the handshake",
    )
    add("--direct", metavar="URL", help="the back end's own address, which must not be reachable")
    add("--plain", metavar="URL", help="the terminator's unencrypted port")
    add("--path", action="append", default=[], help="another path that the back end serves")
    add(
        "--other-name",
        action="append",
        default=[],
        metavar="NAME",
        help="another name that the terminator serves",
    )
    add(
        "--only",
        action="append",
        default=[],
        metavar="ID",
        help="run this probe alone; may be repeated",
    )
    add("--list", action="store_true", help="list the probes and exit")
    add("--hostile", action="store_true", help="run the probes for denial of service too")
    add("--rate", type=float, default=100.0, help="connections a second at most (100)")
    add(
        "--fail-on",
        choices=[each.value for each in Severity],
        default="low",
        help="the least severity for exit status 1 (low)",
    )
    add(
        "--authority",
        type=Path,
        metavar="FILE",
        help="write the throw-away authority's certificate here, and wait for Enter",
    )
    add(
        "--verbose",
        action="store_true",
        help="show all bytes that were sent and received for a failure",
    )
    add("--json", action="store_true", help="print JSON instead of the table")
    for kind in ("junit", "sarif", "html"):
        add(f"--{kind}", metavar="FILE", help=f"write a report in the format {kind}")


@attrs.frozen(kw_only=True)
class Options:
    """The parsed command line."""

    url: str | None
    preset: str | None
    header: str | None = attrs.field(repr=False)
    header_file: Path | None
    format: str | None
    listen: str | None
    connect: str | None
    direct: str | None
    plain: str | None
    path: Sequence[str]
    other_name: Sequence[str]
    only: Sequence[str]
    list: bool
    hostile: bool
    rate: float
    fail_on: str
    authority: Path | None
    verbose: bool
    json: bool
    junit: str | None
    sarif: str | None
    html: str | None
