"""Plans of exported configurations, and their text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.export.command import RENDERERS
from x509proxy.export.plan import Identity, ListenAddress, Plan
from x509proxy.forwarding.presets import HeaderPlan
from x509proxy.forwarding.secret_name import new_header_name
from x509proxy.settings import Backend, ClientAuth, Format, TlsVersion, Trust, Validity

PLAN = Plan(
    product="x",
    source="x509proxy.toml",
    listeners=(ListenAddress(8443),),
    identities=(Identity("/a.pem", "/a.pem"),),
    fields=(HeaderPlan(Format.PEM_URL, b"X-My-Cert"),),
    backends=(Backend.parse("http://127.0.0.1:8080"),),
    hosts=(),
    client_auth=ClientAuth.OPTIONAL,
    trust=Trust.ANY,
    validity=Validity.ENFORCE,
    ca=None,
    crl=(),
    depth=4,
    minimum_version=TlsVersion.TLS_1_2,
    max_body=1000,
    max_head=16384,
    limits=(),
)


BACKENDS = tuple(map(Backend.parse, ("https://b.example", "https://[::1]:9443")))


VERIFYING = {"trust": Trust.CA, "ca": "/ca.pem", "crl": ("/crl.pem",)}


def rendered(product: str, **changes: Any) -> tuple[str, str]:
    """Return the configuration of a changed plan, and its limits as one text."""
    plan = attrs.evolve(PLAN, product=product, **changes)
    if product == "caddy" and "fields" not in changes:
        plan = attrs.evolve(plan, fields=(HeaderPlan(Format.BASE64_DER, b"X-My-Cert"),))
    text, limits = RENDERERS[product](plan)
    return text, "\n".join(limits)


def plan_fields(*forms: Format) -> tuple[HeaderPlan, ...]:
    """Return a header for each format."""
    return tuple(HeaderPlan(form, f"X-{form.value}".encode(), value=b"v") for form in forms)


class ExportTestCase(SynchronousTestCase):
    def contains(self, text: str, *parts: str) -> None:
        """Check that each part is in the text."""
        for part in parts:
            self.assertIn(part, text)


class ExportFilesTestCase(ExportTestCase):
    """A folder with a configuration and its files."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        made = make_self_signed(KeyKind.EC, "localhost", server=True)
        self.write("both.pem", made.certificate_pem + made.key_pem)
        self.name = new_header_name()
        self.write("header.txt", self.name.encode())

    def write(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.write_bytes(data)
        path.chmod(0o600)
        return str(path)

    def toml(self, text: str) -> str:
        return self.write(
            "x509proxy.toml",
            f'certificate = "both.pem"\nbackend = "http://127.0.0.1:8080"\n{text}'.encode(),
        )
