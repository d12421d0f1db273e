"""Selection of the server's certificate by the name in the handshake (SNI, RFC 6066 section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
from cryptography import x509

from x509proxy.settings import SettingsError

__all__ = ["ServerNames", "key_of"]


@attrs.frozen
class ServerNames:
    """The DNS names of several server certificates.

    As with nginx, an unknown or missing name selects the first certificate, and causes no alert.
    """

    _indexes: Mapping[bytes, int]

    @classmethod
    def of(cls, certificates: Sequence[x509.Certificate]) -> ServerNames:
        """Collect the DNS names of the certificates.

        The first one is that of the key ``certificate``, the others are those of
        ``certificates[0]``, ``certificates[1]`` and so on.

        :raises SettingsError: two have the same name, or one other than the first has none.
        """
        indexes: dict[bytes, int] = {}
        for index, certificate in enumerate(certificates):
            key = key_of(index)
            names = _dns_names(certificate, key)
            if index and not names:
                raise SettingsError(
                    f"{key}: found no DNS name in it, expected one or more (subjectAltName)"
                )
            for name in sorted(names):
                if name in indexes:
                    raise SettingsError(
                        f"{key}: found the name {name.decode()!r} of {key_of(indexes[name])}, "
                        "expected each name in one certificate"
                    )
                indexes[name] = index
        return cls(indexes)

    def index_for(self, name: bytes | None) -> int:
        """Return the index of the certificate for a name.

        A certificate with the name itself is preferred to one with a wildcard for its first label.
        Without either, it is the first.
        """
        if name is None:
            return 0
        folded = name.lower()
        label, _, parent = folded.partition(b".")
        wildcard = b"*." + parent if label else b""
        return self._indexes.get(folded, self._indexes.get(wildcard, 0))


def key_of(index: int) -> str:
    """Return the configuration key of a server certificate, by its index as in ``ServerNames``."""
    return f"certificates[{index - 1}].certificate" if index else "certificate"


def _dns_names(certificate: x509.Certificate, key: str) -> set[bytes]:
    """Return the names in lower case, since they are compared without case (RFC 4343)."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    except Exception:  # cryptography has a different one for each kind of fault
        raise SettingsError(
            f"{key}: found an extension that cannot be read, expected valid DER"
        ) from None
    return {name.lower().encode("utf-8") for name in found.get_values_for_type(x509.DNSName)}
