"""Tests of :mod:`x509proxy.config.toml_quotes`: the frequent syntax errors, in a person's words."""

from __future__ import annotations

import tomli
from hypothesis import given
from hypothesis import strategies as st

from tests.support.toml_files import TomlTestCase
from x509proxy.config.toml_quotes import bare_text


class Quotes(TomlTestCase):
    def test_bare_text(self) -> None:
        """Text without quotes, or with wrong ones, has its line and an example of right ones."""
        quoted = 'expected text in straight double quotes, such as "tcp:8443"'
        for line, text, found in (
            (2, "\nlisten = tcp:8443", "text without quotes"),
            (1, "listen = 127.0.0.1:8443  # here", "text without quotes"),
            (1, "listen = ['tcp:1', tcp:2]", "text without quotes"),
            (3, "listen = [\n  'tcp:1',\n  tcp:2,\n]", "text without quotes"),
            (1, "client = { a = b }", "text without quotes"),
            (1, "ca = 'a' b", "text without quotes"),
            (1, "listen = \u201ctcp:8443\u201d", "curly quotes"),
            (1, "listen = \u2018tcp:8443\u2019", "curly quotes"),
            (1, 'listen = "tcp:8443\nca = "a"', "text without its closing quote"),
            (1, "listen = 'tcp:8443\nworkers = 1\n", "text without its closing quote"),
            (3, 'a = """\n"b"""\nlisten = "x', "text without its closing quote"),
        ):
            with self.subTest(text):
                self.assertEqual(f"FILE: line {line}: found {found}, {quoted}", self.refusal(text))

    def test_bare_words(self) -> None:
        """Other words that TOML does not have are reported by what stands for them."""
        for text, reason in (
            ("demo = yes", "found a word without quotes, expected true or false"),
            ("demo = False", "found a word without quotes, expected true or false"),
            ("client.idle-timeout = 30s", "found a number with a unit, expected one without"),
        ):
            self.assertEqual(f"FILE: line 1: {reason}", self.refusal(text))

    def test_secret_without_quotes(self) -> None:
        """The text, which may be the secret name, is not quoted in the error."""
        self.assertNotIn("ecret", self.refusal("header = Sec-Client-ecret"))

    @given(text=st.text(alphabet="ab='\"#[]{},\n\\ \u201c0.:", max_size=60))
    def test_any_text(self, text: str) -> None:
        """Any text is a document, or one error with a line that the file has."""
        try:
            tomli.loads(text)
        except tomli.TOMLDecodeError as error:
            mistake = bare_text(text, min(error.lineno, len(text.splitlines())))
            if mistake is not None:
                self.assertIn(mistake.line, range(1, text.count("\n") + 2))
