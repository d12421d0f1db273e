"""Clients and files for endpoint strings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue

from x509proxy.certificates.self_signed import KeyKind, make_self_signed

reactor: Any = installed_reactor


def write_private(path: str, content: bytes) -> str:
    """Write a file that only its owner can read; return its absolute path."""
    file = Path(path).absolute()
    file.touch(mode=0o600)
    file.write_bytes(content)
    return str(file)


def server_files(certificate: str, key: str) -> None:
    """Write a certificate for ``localhost`` and its key."""
    made = make_self_signed(KeyKind.EC, "localhost", server=True)
    write_private(certificate, made.certificate_pem)
    write_private(key, made.key_pem)


def curl(*arguments: str) -> Deferred[tuple[bytes, bytes, int]]:
    """Run ``curl`` for at most twenty seconds; return its output, its errors and its status."""
    bounded = ("-q", "--silent", "--show-error", "--max-time", "20", *arguments)
    run: Deferred[tuple[bytes, bytes, int]] = getProcessOutputAndValue(
        "curl", bounded, env={"PATH": os.environ["PATH"]}, reactor=reactor
    )
    return run


TLS_VERSIONS = {"TLSv1.2": ("--tlsv1.2", "--tls-max", "1.2"), "TLSv1.3": ("--tlsv1.3",)}
