"""The configurations and sizes of ``docs/post-quantum.rst``, against the code."""

from __future__ import annotations

import re
import textwrap
import tomllib
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.forwarding.certificate_formats import encode
from x509proxy.settings import Format, KeyType

PAGE = (Path(__file__).parents[2] / "docs" / "post-quantum.rst").read_text()


def sizes_of(kind: KeyKind) -> list[int]:
    """Return the octets of a new certificate: in DER, in base64 and in URL-encoded PEM."""
    made = make_self_signed(kind, "my-client").certificate
    certificate = ClientCertificate.from_x509(made, ())
    values = [
        value
        for form in (Format.BASE64_DER, Format.PEM_URL)
        for _, value in encode(certificate, form, b"x")
    ]
    return [len(certificate.der), *map(len, values)]


class Page(SynchronousTestCase):
    def test_key_types(self) -> None:
        """The lists of key types are valid settings: all but ML-DSA, and with its smallest."""
        classic = [kind for kind in KeyType if not kind.name.startswith("ML_DSA")]
        found = [
            [KeyType(text) for text in tomllib.loads(line)["key-types"]]
            for line in map(str.strip, re.findall(r"^ +(key-types = .*)$", PAGE, re.MULTILINE))
        ]
        self.assertEqual([classic, [*classic, KeyType.ML_DSA_44]], found)

    def test_thumbprint(self) -> None:
        """The block for the thumbprint has one secret header, in that format alone."""
        block = PAGE.partition(".. code-block:: toml\n")[2].partition("\nServer certificates")[0]
        found = tomllib.loads(textwrap.dedent(block))
        header = {"name-file": "header.txt", "format": Format.THUMBPRINT.value}
        self.assertEqual({"preset": "none", "headers": [header]}, found)

    def test_sizes(self) -> None:
        """The sizes in the table are those of certificates made here, to a tenth of a kilobyte."""
        for kind in (KeyKind.ML_DSA_44, KeyKind.ML_DSA_65, KeyKind.ML_DSA_87):
            # Certificates of random keys differ by a few characters in URL-encoded form.
            made = [sizes_of(kind) for _ in range(8)]
            sizes = [sum(column) / len(made) for column in zip(*made, strict=True)]
            row = PAGE.partition(f"* - ``{kind.value}``\n")[2].partition("* - ")[0]
            told = [float(text) * 1000 for text in re.findall(r"([\d.]+) KB", row)]
            self.assertEqual(3, len(told))
            for size, wanted in zip(sizes, told, strict=True):
                self.assertLess(abs(size - wanted), 100, (kind, sizes))
