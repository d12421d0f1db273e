"""The secret header name: the rules for it, a new one, and the file that holds it."""

from __future__ import annotations

import re
import secrets
import string

from x509proxy.certificates.config_files import ConfigFile, FileReader, read_file
from x509proxy.http1.fields import fold
from x509proxy.redaction import MIN_NAME_CHARS, MIN_RANDOM_CHARS, is_random
from x509proxy.settings import SettingsError

__all__ = ["check_header_name", "new_header_name", "read_header_names", "secret_part"]

_MAX_NAME_CHARS = 256
_NAME = re.compile(r"[A-Za-z0-9-]+")
# "op.tls.clientX509CertHeader = …", as `x509proxy secret` prints it.
_ASSIGNMENT = re.compile(r"[A-Za-z0-9._-]+[ \t]*=")
_PREFIX = "Sec-Client-X509-Cert-"
_ALPHABET = string.ascii_letters + string.digits
# Random parts of names in public documentation, which attackers read: lower case, without hyphens.
_PUBLISHED = (
    # connect2id.com: guide on TLS proxies, release notes of 8.1, FAPI checklist of version 9.
    "alaelul8geiqu3ohog1mafa4ecu9ahsh",
    "liede5vaepeemiyie0xu2jaudauleing",
    # The tests of this project.
    "zq3fj7slw0axn5trk9vb2ygd8hmc4pue",
    "q8zr2lxw0vtn5kdyb7hcjm3pfas9geui",
    "qb3yu8mk1fxz6rwt0hnd9lsv5jgcp2ae",
)


def read_header_names(path: str, read: FileReader = read_file) -> tuple[bytes, ...]:
    """Read the secret header name from a private file: one line, or two during a rotation.

    :raises SettingsError: the file or a name is invalid. The sentence does not contain the name.
    """
    source = ConfigFile.read(path, "header-file", read=read)
    source.require_private()
    lines = source.lines()
    if len(lines) not in (1, 2):
        raise SettingsError(
            f"{source.where}: found {len(lines) or 'no'} lines, "
            "expected the header's name, or two of them"
        )
    return tuple(check_header_name(line, source.where) for line in lines)


def check_header_name(name: str, where: str) -> bytes:
    """Return a secret header name as bytes for the wire.

    ``where`` begins the error sentence: the configuration key, and the path if there is one.

    :raises SettingsError: the name has characters other than ``[A-Za-z0-9-]``, is too short, too
        long or published, or has no random part.
    """
    if _ASSIGNMENT.match(name):
        raise SettingsError(
            f"{where}: found a line of the server's configuration, "
            "expected the name alone, which follows the ="
        )
    if not _NAME.fullmatch(name):
        found = "with other characters than letters, digits and hyphens"
    elif len(name) < MIN_NAME_CHARS:
        found = "which is too short"
    elif len(name) > _MAX_NAME_CHARS:
        found = "which is too long"
    elif not is_random(name):
        found = "that can be guessed"
    elif _PREFIX.lower() in name[1:].lower():
        # ``cat new >> file`` behind a line without an end. The old name would pass from clients.
        found = "that is two names in one line"
    elif _is_published(name):
        found = "that is published in documentation"
    else:
        return name.encode("ascii")
    raise SettingsError(
        f"{where}: found a header name of {len(name)} characters {found}, "
        f"expected {MIN_NAME_CHARS} to {_MAX_NAME_CHARS} with a random part of "
        f"{MIN_RANDOM_CHARS}, as `x509proxy secret` makes it"
    )


def _is_published(name: str) -> bool:
    folded = name.lower().replace("-", "")
    return any(published in folded for published in _PUBLISHED)


def new_header_name() -> str:
    """Make a new secret header name: 32 random characters (190 bits) after a descriptive prefix."""
    return _PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(32))


def secret_part(name: bytes) -> bytes:
    """Return the folded name without the public prefix of generated names."""
    return fold(name).removeprefix(_PREFIX.lower().encode("ascii"))
