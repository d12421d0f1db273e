"""Recognition of files that are not the certificate or key in PEM that was expected.

Facts
-----
* PKCS#12 is a SEQUENCE with version 3 and then the content type pkcs7-data or pkcs7-signedData (RFC
  7292 section 4).
* A Java keystore (JKS) begins with FEEDFEED; newer ones are PKCS#12.
"""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_private_key

__all__ = ["kind_of_file"]

_ARMOUR = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")
# By the end of the label: "EC PRIVATE KEY" and "ENCRYPTED PRIVATE KEY" are private keys.
_LABELS = (
    (b"OPENSSH PRIVATE KEY", "a key in OpenSSH's own format"),
    (b"PRIVATE KEY", "a private key"),
    (b"PUBLIC KEY", "a public key"),
    (b"CERTIFICATE REQUEST", "a certificate signing request"),
    (b"TRUSTED CERTIFICATE", "a certificate in OpenSSL's own format"),
    (b"CERTIFICATE", "a certificate"),
    (b"X509 CRL", "a revocation list"),
    (b"PKCS7", "a PKCS#7 bundle"),
)
_LONG_SEQUENCE = rb"0[\x80-\x84][\x00-\xff]{0,4}"
_PKCS12 = re.compile(
    _LONG_SEQUENCE
    + rb"\x02\x01\x03"
    + _LONG_SEQUENCE
    + rb"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07[\x01\x02]"
)
_HINTS = {
    "a certificate in DER": "PEM, as `openssl x509 -inform der` makes it",
    "a private key in DER": "PEM, as `openssl pkey -inform der` makes it",
    "a PKCS#12 file": "PEM, as `openssl pkcs12 -noenc` makes it",
    "a Java keystore": (
        "PEM; `keytool -importkeystore -deststoretype pkcs12` and `openssl pkcs12 -noenc` make it"
    ),
    "a PKCS#7 bundle": "PEM, as `openssl pkcs7 -print_certs` makes it",
}


def kind_of_file(data: bytes) -> tuple[str, str]:
    """Return a name for the kind of a file, and a hint for its conversion to PEM.

    Either is ``""`` if there is none.
    """
    kind = _kind(data)
    return kind, _HINTS.get(kind, "")


def _kind(data: bytes) -> str:
    if not data.strip():
        return "an empty file"
    if data.startswith(b"\xfe\xed\xfe\xed"):
        return "a Java keystore"
    if _PKCS12.match(data):
        return "a PKCS#12 file"
    armour = _ARMOUR.search(data)
    if armour is not None:
        return next((name for label, name in _LABELS if armour[1].endswith(label)), "")
    return _kind_of_der(data)


def _kind_of_der(data: bytes) -> str:
    try:
        x509.load_der_x509_certificate(data)
    except (ValueError, x509.InvalidVersion):
        pass
    else:
        return "a certificate in DER"
    try:
        load_der_private_key(data, None)
    except TypeError:
        return "a private key in DER"
    except (ValueError, UnsupportedAlgorithm):
        return ""
    return "a private key in DER"
