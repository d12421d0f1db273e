"""What is read from files and must be right before anything starts: keys, certificates, the secret name.

Facts
-----
* ``cryptography`` answers an encrypted key with TypeError, and anything else that it cannot read with ValueError,
  UnsupportedAlgorithm or, for a certificate of an odd version, InvalidVersion, which is none of these.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import TypeVar

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from x509proxy.certificates.config_files import ConfigFile, FileReader, read_file
from x509proxy.certificates.file_kinds import kind_of_file
from x509proxy.redaction import RANDOM, SHORTEST, is_random, without_secrets
from x509proxy.settings import SettingsError

__all__ = [
    "Identity",
    "PrivateKey",
    "check_header_name",
    "new_header_name",
    "read_authorities",
    "read_crls",
    "read_header_names",
    "read_identity",
    "read_line",
    "without_secrets",
]

PrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)
"""The keys that TLS signs with; ML-DSA in TLS 1.3 alone (draft-ietf-tls-mldsa)."""

_Loaded = TypeVar("_Loaded")

_LARGEST_CRL = 16 << 20  # bytes; 38 for each certificate that is revoked, in PEM half as much again
# OpenSSL's security level 2 rejects less when the context is built, in words of its own.
_RSA_BITS = 2048
# TLS 1.3 has signature schemes for these alone (RFC 8446 section 4.2.3): with secp256k1, no client can verify the handshake.
_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_KEY_BLOCK = re.compile(
    rb"-----BEGIN ((?:[A-Z0-9]+ )*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL
)

_LONGEST = 256
_NAME = re.compile(r"[A-Za-z0-9-]+")
# "op.tls.clientX509CertHeader = …", as `x509proxy secret` prints it.
_PASTED = re.compile(r"[A-Za-z0-9._-]+[ \t]*=")
_PREFIX = "Sec-Client-X509-Cert-"
_ALPHABET = string.ascii_letters + string.digits
# The random parts of names that are printed where attackers read them. In lower case: letters and digits alone count.
_PUBLISHED = (
    # connect2id.com: the guide on TLS proxies, the release notes of 8.1, the FAPI checklist of version 9.
    "alaelul8geiqu3ohog1mafa4ecu9ahsh",
    "liede5vaepeemiyie0xu2jaudauleing",
    # The tests of this project.
    "zq3fj7slw0axn5trk9vb2ygd8hmc4pue",
    "q8zr2lxw0vtn5kdyb7hcjm3pfas9geui",
    "qb3yu8mk1fxz6rwt0hnd9lsv5jgcp2ae",
)


@attrs.frozen
class Identity:
    """Who one side of TLS is. ``chain``: what goes with the certificate, in the file's order; the leaf is not repeated."""

    certificate: x509.Certificate
    private_key: PrivateKey = attrs.field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()


def read_identity(
    certificate_path: str,
    key_path: str | None,
    what: str = "certificate",
    read: FileReader = read_file,
) -> Identity:
    """Read a chain in PEM, leaf first, and its key, from the same file if ``key_path`` is ``None``. ``what``: the key's name.

    Validity is not judged: a server with an expired certificate is better than none, and its administrator is warned.

    :raises SettingsError: a file cannot be read, the key is open to others, encrypted, or not that of the certificate.
    """
    source = ConfigFile.read(certificate_path, what, read=read)
    leaf, *rest = _certificates(source)
    key_what = what.removesuffix("certificate") + "private-key"
    if key_path is None:
        key = _private_key(source, f"one in PEM, or {key_what} to name the file that holds it")
    else:
        key_source = ConfigFile.read(key_path, key_what, read=read)
        if not _KEY_BLOCK.search(key_source.data):
            raise SettingsError(
                f"{key_source.where}: {_no_private_key(key_source.data, 'one in PEM')}"
            )
        key = _private_key(key_source, "one in PEM")
    _check_fit(key, (leaf, *rest), source.where)
    return Identity(leaf, key, tuple(certificate for certificate in rest if certificate != leaf))


def read_authorities(
    path: str, what: str = "ca", read: FileReader = read_file
) -> tuple[x509.Certificate, ...]:
    """Read a bundle of certificates in PEM, in the file's order.

    :raises SettingsError: the file cannot be read, or there is no certificate in it.
    """
    return _certificates(ConfigFile.read(path, what, read=read))


def _certificates(source: ConfigFile) -> tuple[x509.Certificate, ...]:
    expected = "one or more in PEM"
    blocks = _blocks(source, rb"(?:X509 )?CERTIFICATE", expected)
    found = tuple(
        _each(
            x509.load_pem_x509_certificate,
            blocks,
            source,
            f"certificate that can be read{{}}, expected {expected}",
        )
    )
    if not found:
        raise SettingsError(f"{source.where}: {_no_certificate(source.data, expected)}")
    return found


def _no_certificate(data: bytes, expected: str) -> str:
    kind, way = kind_of_file(data)
    if kind == "a private key":
        way = "a certificate in PEM; are the files of the certificate and the key swapped?"
    return f"found {kind or 'no certificate that can be read'}, expected {way or expected}"


def _no_private_key(data: bytes, expected: str) -> str:
    kind, way = kind_of_file(data)
    if kind == "a certificate":
        way = "a private key in PEM; are the files of the certificate and the key swapped?"
    return f"found {kind or 'no private keys'}, expected {way or expected}"


def _blocks(source: ConfigFile, kind: bytes, expected: str) -> list[bytes]:
    """The blocks of a kind in PEM. One that is cut off is not passed over: what it says would be missed in silence."""
    marks = [*re.finditer(rb"-----(BEGIN|END) (" + kind + rb")-----", source.data)]
    blocks: list[bytes] = []
    for begin, end in zip_longest(marks[::2], marks[1::2]):
        if end is None or (begin[1], end[1], end[2]) != (b"BEGIN", b"END", begin[2]):
            missing = "END" if begin[1] == b"BEGIN" else "BEGIN"
            raise SettingsError(
                f"{source.where}: found block {len(blocks) + 1} without its {missing} line, expected {expected}"
            )
        blocks.append(source.data[begin.start() : end.end()])
    return blocks


def _each(
    load: Callable[[bytes], _Loaded], blocks: list[bytes], source: ConfigFile, sentence: str
) -> Iterator[_Loaded]:
    for place, block in enumerate(blocks, 1):
        try:
            yield load(block)
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
            which = f" in block {place}" if len(blocks) > 1 else ""
            raise SettingsError(f"{source.where}: found no {sentence.format(which)}") from None


def read_crls(
    path: str, what: str = "crl", read: FileReader = read_file
) -> tuple[x509.CertificateRevocationList, ...]:
    """Read the revocation lists of a file, in its order: one or more in PEM, or one in DER. Whose they are is not asked here.

    :raises SettingsError: the file cannot be read, or there is no list in it, or one that cannot be read.
    """
    source = ConfigFile.read(path, what, _LARGEST_CRL, read)
    expected = "one or more in PEM, or one in DER"
    blocks = _blocks(source, b"X509 CRL", expected)
    load = x509.load_pem_x509_crl if blocks else x509.load_der_x509_crl
    return tuple(
        _each(
            load,
            blocks or [source.data],
            source,
            f"revocation list that can be read{{}}, expected {expected}",
        )
    )


def _private_key(source: ConfigFile, expected: str) -> PrivateKey:
    blocks = [block[0] for block in _KEY_BLOCK.finditer(source.data)]
    if len(blocks) != 1:
        raise SettingsError(
            f"{source.where}: found {len(blocks) or 'no'} private keys, expected {expected}"
        )
    source.require_private()
    found = "a private key that cannot be read"
    try:
        match load_pem_private_key(blocks[0], None):
            case rsa.RSAPrivateKey() as key if key.key_size < _RSA_BITS:
                found = f"an RSA key of {key.key_size} bits"
            case ec.EllipticCurvePrivateKey() as key if key.curve.name not in _CURVES:
                found = f"an EC key on {key.curve.name}"
            case key if isinstance(key, PrivateKey):
                return key
            case _:
                found = "a private key that TLS cannot sign with"
    except TypeError:
        found = "an encrypted private key"
    except (ValueError, UnsupportedAlgorithm):
        pass
    expected = f"one without a password: Ed25519, EC on P-256, P-384 or P-521, RSA from {_RSA_BITS} bits, or ML-DSA"
    raise SettingsError(f"{source.where}: found {found}, expected {expected}")


def _check_fit(key: PrivateKey, certificates: tuple[x509.Certificate, ...], where: str) -> None:
    """Check that the key is that of the first certificate; name the one that it belongs to if it is another."""
    # OpenSSL: "no certificate assigned" when the context is built. cryptography reads the key as one of plain RSA.
    if certificates[0].public_key_algorithm_oid == x509.oid.PublicKeyAlgorithmOID.RSASSA_PSS:
        raise SettingsError(
            f"{where}: found a certificate for an RSA-PSS key, expected one for a key of plain RSA, which signs with PSS too"
        )
    fitting = [
        place for place, certificate in enumerate(certificates, 1) if _fits(key, certificate)
    ]
    if not fitting:
        raise SettingsError(
            f"{where}: found a certificate with another public key, expected the one of the private key"
        )
    if fitting[0] != 1:
        raise SettingsError(
            f"{where}: found the private key's certificate in place {fitting[0]}, expected it first in the file"
        )


def _fits(key: PrivateKey, certificate: x509.Certificate) -> bool:
    try:
        return certificate.public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False


def read_header_names(path: str, read: FileReader = read_file) -> tuple[bytes, ...]:
    """Read the secret name: the one line of a file that nobody else may read; or two, while one takes the other's place.

    :raises SettingsError: as the file or a name is unfit; no name is in the sentence.
    """
    source = ConfigFile.read(path, "header-file", read=read)
    source.require_private()
    lines = source.lines()
    if len(lines) not in (1, 2):
        raise SettingsError(
            f"{source.where}: found {len(lines) or 'no'} lines, expected the header's name, or two of them"
        )
    return tuple(check_header_name(line, source.where) for line in lines)


def read_line(path: str, what: str, read: FileReader = read_file) -> str:
    """Read a secret: the one line of a file that nobody else may read. ``what``: the key's name.

    :raises SettingsError: as the file is unfit.
    """
    source = ConfigFile.read(path, what, read=read)
    source.require_private()
    lines = source.lines()
    if len(lines) != 1:
        raise SettingsError(f"{source.where}: found {len(lines) or 'no'} lines, expected one")
    return lines[0]


def check_header_name(name: str, where: str) -> bytes:
    """Return the name as it goes on the wire, if it can be a secret. ``where``: for the sentence.

    :raises SettingsError: other characters than ``[A-Za-z0-9-]``, too short, too long, without a random part, or published.
    """
    if _PASTED.match(name):
        raise SettingsError(
            f"{where}: found a line of the server's configuration, expected the name alone, which stands behind ="
        )
    if not _NAME.fullmatch(name):
        found = "with other characters than letters, digits and hyphens"
    elif not SHORTEST <= len(name) <= _LONGEST:
        found = "which is too short" if len(name) < SHORTEST else "which is too long"
    elif not is_random(name):
        found = "that can be guessed"
    elif _is_published(name):
        found = "that is published in documentation"
    else:
        return name.encode("ascii")
    raise SettingsError(
        f"{where}: found a header name of {len(name)} characters {found}, "
        f"expected {SHORTEST} to {_LONGEST} with a random part of {RANDOM}, as `x509proxy secret` makes it"
    )


def _is_published(name: str) -> bool:
    said = name.lower().replace("-", "")
    return any(published in said for published in _PUBLISHED)


def new_header_name() -> str:
    """A new secret name: 32 random characters, 190 bits, after a prefix that tells its purpose."""
    return _PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(32))
