"""Promises of :mod:`x509proxy.config.toml_errors`: what the sentences offer; the common ones stand in ``test_configuration``."""

from __future__ import annotations

from typing import Any, get_args, get_origin

import msgspec

from tests.unit.config.test_loader import TomlTests
from x509proxy.config import toml_errors as mistakes
from x509proxy.schema import ProxySettings
from x509proxy.settings import Settings


def tables() -> dict[str, type[Settings]]:
    """Every kind of table of the first level, by its key."""
    kinds = {
        field.encode_name: (field.type, *get_args(field.type))
        for field in msgspec.structs.fields(ProxySettings)
    }
    return {
        key: kind
        for key, several in kinds.items()
        for kind in several
        if isinstance(kind, type) and issubclass(kind, Settings)
    }


class Offers(TomlTests):
    def test_missing(self) -> None:
        """What a table must have is asked for by its dotted key, with an example or the choice."""
        for text, sentence in (
            (
                "[[listeners]]",
                "listeners[0].endpoint: found nothing, expected an endpoint such as tcp:8443",
            ),
            (
                "[[headers]]\n[[headers]]",
                "headers[0].format: found nothing, expected pem, pem-spaces, ",
            ),
            (
                "[[rules]]\npath = '/a'",
                "rules[0].client-certificate: found nothing, expected required, optional or ignored",
            ),
            (
                "[[certificates]]",
                "certificates[0].certificate: found nothing, expected a PEM file with a chain",
            ),
            (
                "[discovery]",
                "discovery.mtls: found nothing, expected an https origin such as https://mtls.example.com:8443",
            ),
            ("[health]", "health.path: found nothing, expected a path such as /health"),
            (
                "[admin]",
                "admin.listen: found nothing, expected unix:/path or tcp:9443:interface=127.0.0.1",
            ),
        ):
            self.assertIn(f"FILE: {sentence}", self.refusal(text))

    def test_every_missing_key(self) -> None:
        """There is no table whose missing key has no sentence."""
        seen = 0
        for key, kind in tables().items():
            for field in msgspec.structs.fields(kind):
                if field.required:
                    seen += 1
                    sentence = mistakes.explain(
                        f"Object missing required field `{field.encode_name}` - at `$.{key}`"
                    )
                    self.assertTrue(
                        sentence.startswith(f"{key}.{field.encode_name}: found nothing, expected "),
                        sentence,
                    )
        self.assertEqual(7, seen)

    def test_below_a_table(self) -> None:
        """A key of the first level that stands below a table belongs above it."""
        expected = "trust above [client], before the first table of the file"
        self.assertEqual(
            f"FILE: client.trust: found an unknown key, expected {expected}",
            self.refusal("[client]\ntrust = 'any'"),
        )
        self.assertIn(
            "expected trust above [[rules]], before", self.refusal("[[rules]]\ntrust = 'any'")
        )

    def test_above_the_tables(self) -> None:
        """A key of a table that stands on the first level belongs below the table, or one of the tables, that has it."""
        for key, expected in (
            ("allowed-hosts", "it below [admin] or it below [client]"),
            ("min-body-rate", "it below [client]"),
            ("server-name", "it below [[rules]]"),
        ):
            self.assertEqual(
                f"FILE: {key}: found an unknown key, expected {expected}",
                self.refusal(f"{key} = 1"),
            )

    def test_brackets(self) -> None:
        """Every table's brackets are those that it takes."""
        many: Any = {
            field.encode_name: get_origin(field.type) is tuple
            for field in msgspec.structs.fields(ProxySettings)
        }
        for key in tables():
            if many[key]:
                self.assertIn(f"expected an array, written [[{key}]]", self.refusal(f"[{key}]"))
            else:
                self.assertIn(f"expected a table, written [{key}]", self.refusal(f"[[{key}]]"))


class Syntax(TomlTests):
    def test_twice(self) -> None:
        """A key or a table that is there twice is said to be so, with its line."""
        for line, text in (
            (2, "ca = 'a'\nca = 'b'"),
            (3, "[tls]\n[client]\n[tls]"),
            (1, "client = {max-connections = 1, max-connections = 2}"),
        ):
            self.assertEqual(
                f"FILE: line {line}: found a key, or a table, twice, expected TOML",
                self.refusal(text),
            )
        found = "found more for a table or a list that was written out above"
        for text in (
            "client = {max-connections = 1}\nclient.max-header-fields = 2",
            "rules = []\n[[rules]]\npath = '/a'",
        ):
            self.assertIn(found, self.refusal(text))

    def test_byte_order_mark(self) -> None:
        """An editor's mark at the beginning is named, since nobody can see it."""
        found = "FILE: line 1: found a byte order mark, which is to be taken out, expected TOML"
        self.assertEqual(found, self.refusal("\ufeffdemo = true"))

    def test_deep(self) -> None:
        """Brackets without end are one sentence."""
        found = "FILE: line 2: found brackets within brackets, too many of them, expected TOML"
        self.assertEqual(found, self.refusal("\na = " + "[" * 5000))
