"""Which of a server's certificates a client gets, by the name that it asks for in the handshake (RFC 6066 section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
from cryptography import x509

from x509proxy.settings import SettingsError

__all__ = ["ServerNames"]


@attrs.frozen
class ServerNames:
    """The names of several certificates. What none of them has gets the first one, as with nginx: no name, no alert."""

    _places: Mapping[bytes, int]

    @classmethod
    def of(cls, certificates: Sequence[x509.Certificate]) -> ServerNames:
        """Gather the DNS names of each; the first certificate is ``certificate``, the others are ``certificates[0]`` and on.

        :raises SettingsError: two have the same name, or one that is not the first has none.
        """
        places: dict[bytes, int] = {}
        for place, certificate in enumerate(certificates):
            key, names = _key(place), _dns_names(certificate, _key(place))
            if place and not names:
                raise SettingsError(
                    f"{key}: found no DNS name in it, expected one or more (subjectAltName)"
                )
            for name in sorted(names):
                if name in places:
                    expected = "each name in one certificate"
                    raise SettingsError(
                        f"{key}: found the name {name.decode()!r} of {_key(places[name])}, expected {expected}"
                    )
                places[name] = place
        return cls(places)

    def place(self, name: bytes | None) -> int:
        """The place of the certificate for a name: of its own, or of one with a wildcard for its first label; else the first."""
        if name is None:
            return 0
        folded = name.lower()
        label, _, parent = folded.partition(b".")
        wildcard = b"*." + parent if label else b""
        return self._places.get(folded, self._places.get(wildcard, 0))


def _key(place: int) -> str:
    return f"certificates[{place - 1}].certificate" if place else "certificate"


def _dns_names(certificate: x509.Certificate, key: str) -> set[bytes]:
    """In lower case, in which they are compared (RFC 4343)."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    except Exception:  # cryptography has one of its own for each kind of oddity
        raise SettingsError(
            f"{key}: found an extension that cannot be read, expected none such"
        ) from None
    return {name.lower().encode("utf-8") for name in found.get_values_for_type(x509.DNSName)}
