"""Certificates, keys and revocation lists from files, checked before anything starts.

Facts
-----
* ``cryptography`` raises TypeError for an encrypted key, and ValueError or UnsupportedAlgorithm for
  other input that it cannot read. For a certificate of an unknown version it raises InvalidVersion,
  which is a subclass of neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import TypeVar

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from x509proxy.certificates.client_certificate import CURVES
from x509proxy.certificates.config_files import ConfigFile, FileReader, read_file
from x509proxy.certificates.file_kinds import kind_of_file
from x509proxy.settings import SettingsError

__all__ = [
    "Identity",
    "PrivateKey",
    "read_authorities",
    "read_crls",
    "read_identity",
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
"""Private keys that TLS can sign with. ML-DSA needs TLS 1.3 (draft-ietf-tls-mldsa)."""

_Loaded = TypeVar("_Loaded")

_MAX_CRL_BYTES = 16 << 20  # an entry has 38 bytes in DER and half as much again in PEM
# OpenSSL's security level 2 rejects shorter keys later, with a sentence that does not name the
# file.
_MIN_RSA_BITS = 2048
_EXPECTED_KEY = (
    "one without a password: Ed25519, EC on P-256, P-384 or P-521, "
    f"RSA from {_MIN_RSA_BITS} bits, or ML-DSA"
)
_KEY_BLOCK = re.compile(
    rb"-----BEGIN ((?:[A-Z0-9]+ )*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL
)


@attrs.frozen
class Identity:
    """The certificate and private key of one side of TLS."""

    certificate: x509.Certificate
    private_key: PrivateKey = attrs.field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()
    """Issuers that are sent after the certificate, in the file's order, without the leaf."""


def read_identity(
    certificate_path: str,
    key_path: str | None,
    setting: str = "certificate",
    read: FileReader = read_file,
) -> Identity:
    """Read a chain in PEM, leaf first, and its private key.

    The key is in the same file if ``key_path`` is ``None``. ``setting`` names the certificate's
    configuration key for error sentences. The validity period is not checked: an expired
    certificate serves some clients, a proxy that does not start serves none. The administrator is
    warned.

    :raises SettingsError: a file cannot be read, or the private key is readable by other users,
        encrypted, or does not belong to the certificate.
    """
    source = ConfigFile.read(certificate_path, setting, read=read)
    leaf, *rest = _certificates(source)
    key_setting = setting.removesuffix("certificate") + "private-key"
    if key_path is None:
        key = _private_key(source, f"one in PEM, or {key_setting} to name the file that holds it")
    else:
        key_source = ConfigFile.read(key_path, key_setting, read=read)
        if not _KEY_BLOCK.search(key_source.data):
            raise SettingsError(
                f"{key_source.where}: {_no_private_key(key_source.data, 'one in PEM')}"
            )
        key = _private_key(key_source, "one in PEM")
    _check_match(key, (leaf, *rest), source.where)
    return Identity(leaf, key, tuple(certificate for certificate in rest if certificate != leaf))


def read_authorities(
    path: str, setting: str = "ca", read: FileReader = read_file
) -> tuple[x509.Certificate, ...]:
    """Read a bundle of certificates in PEM, in the file's order.

    :raises SettingsError: the file cannot be read, or there is no certificate in it.
    """
    return _certificates(ConfigFile.read(path, setting, read=read))


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
    kind, hint = kind_of_file(data)
    if kind == "a private key":
        hint = "a certificate in PEM; are the files of the certificate and the key swapped?"
    return f"found {kind or 'no certificate that can be read'}, expected {hint or expected}"


def _no_private_key(data: bytes, expected: str) -> str:
    kind, hint = kind_of_file(data)
    if kind == "a certificate":
        hint = "a private key in PEM; are the files of the certificate and the key swapped?"
    return f"found {kind or 'no private keys'}, expected {hint or expected}"


def _blocks(source: ConfigFile, label: bytes, expected: str) -> list[bytes]:
    """Return the PEM blocks with a label.

    A truncated block is an error. To ignore it would silently drop a certificate.
    """
    marks = [*re.finditer(rb"-----(BEGIN|END) (" + label + rb")-----", source.data)]
    blocks: list[bytes] = []
    for begin, end in zip_longest(marks[::2], marks[1::2]):
        if end is None or (begin[1], end[1], end[2]) != (b"BEGIN", b"END", begin[2]):
            missing = "END" if begin[1] == b"BEGIN" else "BEGIN"
            raise SettingsError(
                f"{source.where}: found block {len(blocks) + 1} without its {missing} line, "
                f"expected {expected}"
            )
        blocks.append(source.data[begin.start() : end.end()])
    return blocks


def _each(
    load: Callable[[bytes], _Loaded], blocks: list[bytes], source: ConfigFile, sentence: str
) -> Iterator[_Loaded]:
    for number, block in enumerate(blocks, 1):
        try:
            yield load(block)
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
            where = f" in block {number}" if len(blocks) > 1 else ""
            raise SettingsError(f"{source.where}: found no {sentence.format(where)}") from None


def read_crls(
    path: str, setting: str = "crl", read: FileReader = read_file
) -> tuple[x509.CertificateRevocationList, ...]:
    """Read the revocation lists of a file, in its order: one or more in PEM, or one in DER.

    The issuer and the signature of a list are not checked here.

    :raises SettingsError: the file or a list in it cannot be read, or there is no list.
    """
    source = ConfigFile.read(path, setting, _MAX_CRL_BYTES, read)
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
            case rsa.RSAPrivateKey() as key if key.key_size < _MIN_RSA_BITS:
                found = f"an RSA key of {key.key_size} bits"
            case ec.EllipticCurvePrivateKey() as key if key.curve.name not in CURVES:
                # With secp256k1, for example, no client could verify the handshake.
                found = f"an EC key on {key.curve.name}"
            case key if isinstance(key, PrivateKey):
                return key
            case _:
                found = "a private key that TLS cannot sign with"
    except TypeError:
        found = "an encrypted private key"
    except (ValueError, UnsupportedAlgorithm):
        pass
    raise SettingsError(f"{source.where}: found {found}, expected {_EXPECTED_KEY}")


def _check_match(key: PrivateKey, certificates: tuple[x509.Certificate, ...], where: str) -> None:
    """Check that the key belongs to the first certificate.

    :raises SettingsError: it does not. The sentence names the certificate that it belongs to, if
        that is another one in the file.
    """
    # OpenSSL would fail with "no certificate assigned", when the context is built, because
    # cryptography loads the private key as a plain RSA key.
    if certificates[0].public_key_algorithm_oid == x509.oid.PublicKeyAlgorithmOID.RSASSA_PSS:
        raise SettingsError(
            f"{where}: found a certificate for an RSA-PSS key, "
            "expected one for a plain RSA key, which signs with PSS too"
        )
    numbers = [number for number, one in enumerate(certificates, 1) if _matches(key, one)]
    if not numbers:
        raise SettingsError(
            f"{where}: found a certificate with another public key, "
            "expected the one of the private key"
        )
    if numbers[0] != 1:
        raise SettingsError(
            f"{where}: found the private key's certificate as number {numbers[0]}, "
            "expected it first in the file"
        )


def _matches(key: PrivateKey, certificate: x509.Certificate) -> bool:
    try:
        return certificate.public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False
