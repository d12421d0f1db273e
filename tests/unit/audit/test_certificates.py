"""Tests of :mod:`x509proxy.audit.certificates`."""

from __future__ import annotations

import shutil
import ssl
import sys
import tempfile
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.audit.certificates import AUTHORITY, RECIPES, Store
from x509proxy.audit.probe import NotApplicable

# Long to make; RSA of another size is made in the same way.
SLOW = {"rsa-4096"}


class StoreTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        self.store = Store(folder)


class Certificates(StoreTestCase):
    def test_each(self) -> None:
        """Each recipe gives a certificate with its key, from its issuer, valid in its period."""
        now = datetime.now(UTC)
        authority = self.store.get(AUTHORITY).x509
        for name, recipe in RECIPES.items():
            if name in SLOW:
                continue
            found = self.store.get(name)
            certificate = x509.load_der_x509_certificate(found.der)
            key = load_pem_private_key(found.key.read_bytes(), None)
            self.assertEqual(certificate.public_key(), key.public_key(), name)
            valid = certificate.not_valid_before_utc < now < certificate.not_valid_after_utc
            self.assertEqual(recipe.days == (-1, 30), valid, name)
            issuer = authority if recipe.issuer else certificate
            certificate.verify_directly_issued_by(issuer)
            self.assertEqual(len(recipe.sends), len(found.chain), name)

    def test_issued(self) -> None:
        """With an issuer, all certificates are its own but those that must arrive self-signed."""
        folder = self.store.folder / "issued"
        folder.mkdir()
        store = Store(folder, issuer=AUTHORITY)
        authority = store.get(AUTHORITY).x509
        for name in ("client", "other", "victim", "expired", "no-name", "issued", "with-victim"):
            store.get(name).x509.verify_directly_issued_by(authority)
            self.assertTrue(store.get(name).is_issued, name)
        for name in (AUTHORITY, "p384", "rsa", "rsa-pss", "ed25519"):
            found = store.get(name).x509
            found.verify_directly_issued_by(found)
            self.assertFalse(store.get(name).is_issued, name)
        self.assertEqual(store.get("victim").der, store.stolen().der)

    def test_kinds(self) -> None:
        """The subject, names, usages and signatures are those of the recipe."""
        pss = self.store.get("rsa-pss").x509.signature_algorithm_parameters
        self.assertIsInstance(pss, padding.PSS)
        no_name = self.store.get("no-name").x509
        self.assertEqual("", no_name.subject.rfc4514_string())
        names = no_name.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        self.assertTrue(names.critical)
        many = self.store.get("many-names").x509.extensions
        self.assertEqual(
            230, len(list(many.get_extension_for_class(x509.SubjectAlternativeName).value))
        )
        critical = self.store.get("critical-extension").x509.extensions
        self.assertTrue(
            any(one.critical for one in critical if one.oid.dotted_string[-5:] == "999.1")
        )

    def test_once(self) -> None:
        """A certificate is made once for each audit, and its digest identifies it."""
        found = self.store.get("client")
        self.assertIs(found, self.store.get("client"))
        self.assertNotEqual(found.digest, self.store.get("other").digest)
        self.assertEqual(found.x509.public_key(), found.private_key.public_key())

    def test_stolen(self) -> None:
        """OpenSSL loads the victim's certificate with another key, which signs in vain."""
        stolen, victim = self.store.stolen(), self.store.get("victim")
        self.assertEqual(victim.der, stolen.der)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_cert_chain(stolen.certificate, stolen.key)
        self.assertNotEqual(victim.key.read_bytes(), stolen.key.read_bytes())

    def test_silent(self) -> None:
        """The text of credentials has no certificate in it."""
        self.assertNotIn("der", repr(self.store.get("client")))


class OldLibrary(StoreTestCase):
    def test_no_ml_dsa(self) -> None:
        """An older ``cryptography`` makes no ML-DSA key, and the probe does not apply."""
        name = "cryptography.hazmat.primitives.asymmetric.mldsa"
        before = import_module(name)
        self.addCleanup(sys.modules.__setitem__, name, before)
        sys.modules[name] = None  # type: ignore[assignment]
        with self.assertRaises(NotApplicable):
            self.store.get("ml-dsa-44")
