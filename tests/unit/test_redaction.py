"""Tests of :mod:`x509proxy.redaction`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.support.names import NAME
from x509proxy.redaction import contains_secret, is_random, without_secrets


class WithoutSecrets(SynchronousTestCase):
    def test_for_a_terminal(self) -> None:
        """Characters that a terminal acts on, or that end a line in a log, are escaped."""
        told = without_secrets("a\x1b]0;x\x07\nb\x00\u202ec\x9b ä")
        self.assertEqual(r"a\x1b]0;x\x07\nb\x00\u202ec\x9b ä", told)

    def test_ordinary_text_stays(self) -> None:
        """Paths and keys of ordinary length and words are shown as they are."""
        for text in (
            "/etc/x509proxy/header.txt",
            "private-key",
            "a-rather-long-folder-name-for-certificates",
        ):
            self.assertEqual(without_secrets(text), text)

    def test_pasted_key(self) -> None:
        """Nothing after the first armour line remains."""
        pasted = "header: -----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"
        self.assertEqual("header: …", without_secrets(pasted))


class Randomness(SynchronousTestCase):
    def test_words_and_terms(self) -> None:
        """Ordinary words, and terms with digits in them, do not count as random."""
        self.assertFalse(is_random("X-Sha256-Of-The-Client-Certificate-From-Connect2id"))
        self.assertTrue(is_random(NAME))

    def test_few_characters(self) -> None:
        """A run of few different characters is not random, however long it is."""
        self.assertFalse(is_random("x1" * 20))

    def test_anywhere(self) -> None:
        """A secret name is found within other text, in each case of its letters."""
        for name in (NAME, NAME.lower(), NAME.upper()):
            self.assertTrue(contains_secret(f"/etc/{name}.txt"))
        self.assertFalse(contains_secret("/etc/x509proxy/header.txt"))
