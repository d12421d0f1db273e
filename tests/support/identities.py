"""Identities of servers with a chosen expiry."""

from __future__ import annotations

from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import KeyKind, make_self_signed


def identity(name: str, *names: str) -> Identity:
    made = make_self_signed(KeyKind.EC, name, names=names, server=True)
    return Identity(made.certificate, made.private_key)
