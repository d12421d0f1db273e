"""Tests of :mod:`x509proxy.config.document`: every mistake at once.

The common ones stand in ``test_loader``.
"""

from __future__ import annotations

from typing import get_origin

from tests.support.names import secret_name
from tests.support.toml_files import TomlTestCase
from x509proxy.config.document import decode, read_document
from x509proxy.settings import (
    ClientSettings,
    ProxySettings,
    Settings,
    keys,
    table_of,
)

NAME = secret_name("document")


def tables() -> dict[str, type[Settings]]:
    """Return every kind of table of the first level, by its key."""
    return {
        name: table
        for name, field in keys(ProxySettings).items()
        if (table := table_of(field.type)) is not None
    }


class DocumentTests(TomlTestCase):
    def problems(self, text: str) -> list[str]:
        """Return the sentences of a file, without its path."""
        path = self.write(text, 0o600, "proxy.toml")
        found = read_document(path)
        return [found.sentence(one).replace(path, "FILE") for one in found.problems]


class Together(DocumentTests):
    def test_all_mistakes(self) -> None:
        """Each mistake of a file is reported, with its line; what is right is used."""
        text = """\
trust = "anyone"
lisen = "tcp:1"
backend = ["http://a", 5]

[client]
head-timeout = "10s"
max-head-bytes = 1
max-body-bytes = 7

[[listeners]]
endpoint = "tcp:1"

[[listeners]]
client-certificate = "none"
"""
        self.assertEqual(
            [
                "FILE: line 1: trust: found 'anyone', expected any, self-signed, ca or either",
                "FILE: line 2: lisen: found an unknown key, expected listen",
                "FILE: line 3: backend[1]: found an integer, expected a string",
                "FILE: line 6: client.head-timeout: found '10s', "
                "expected a number of seconds without quotes and unit, such as 10",
                "FILE: line 7: client.max-head-bytes: found 1, expected 64 to 1048576",
                "FILE: line 13: listeners[1].endpoint: found nothing, "
                "expected an endpoint such as tcp:8443",
            ],
            sorted(self.problems(text), key=lambda one: int(one.split()[2].strip(":"))),
        )
        settings = read_document(self.write(text, 0o600, "proxy.toml")).settings
        assert settings is not None
        self.assertEqual(7, settings.client.max_body_bytes)
        self.assertEqual(ClientSettings().head_timeout, settings.client.head_timeout)

    def test_contradictions(self) -> None:
        """Contradictions within a table are all reported, and there are no settings then."""
        text = (
            "key-types = []\n[[rules]]\nclient-certificate = 'required'\npath = 'a*'\n"
            "server-name = 'A'\n"
        )
        found = self.problems(text)
        self.assertIn("FILE: line 4: rules[0].path: found 'a*', expected a plain path", found[0])
        self.assertIn("FILE: line 5: rules[0].server-name: found 'A'", found[1])
        self.assertIn("FILE: line 1: key-types: found none", found[2])
        self.assertIsNone(read_document(self.path_of(text)).settings)

    def path_of(self, text: str) -> str:
        return self.write(text, 0o600, "proxy.toml")

    def test_no_echo(self) -> None:
        """A mistake in a key is reported once, and not again as a contradiction."""
        self.assertEqual(
            [
                "FILE: line 1: upstream.retry-delay: found '31', "
                "expected a number of seconds without quotes and unit, such as 31"
            ],
            self.problems("upstream.retry-delay = '31'\n"),
        )
        found = self.problems("[upstream]\nretry-delay = 301\nmax-retry-delay = 0.5\n")
        self.assertEqual(
            ["FILE: line 2: upstream.retry-delay: found 301, expected 300 or less"], found
        )


class Hints(DocumentTests):
    def test_quoted_numbers(self) -> None:
        """A number in quotes, with a unit or without, is shown as it is to be written."""
        for text, unit, number in (
            ("client.idle-timeout = '30s'", "seconds", "30"),
            ("client.idle-timeout = '30'", "seconds", "30"),
            ("client.idle-timeout = '500ms'", "seconds", "0.5"),
            ("client.max-connection-age = '1h'", "seconds", "3600"),
            ("client.max-head-bytes = '16k'", "bytes", "16384"),
            ("client.max-body-bytes = '2 MiB'", "bytes", "2097152"),
        ):
            [found] = self.problems(text)
            self.assertIn(
                f"expected a number of {unit} without quotes and unit, such as {number}", found
            )
        [found] = self.problems("client.handshake-rate-per-address = '5'")
        self.assertIn("found '5', expected a number without quotes and unit, such as 5", found)
        for text in ("client.idle-timeout = 'soon'", "workers = '2'"):
            self.assertIn("found a string, expected", self.problems(text)[0])

    def test_lists(self) -> None:
        """A list of strings in another type has its example."""
        expected = "expected a string or an array of strings"
        example = "at least one endpoint such as tcp:8443"
        for text, sentence in (
            ("listen = 8443", f"listen: found an integer, {expected}: {example}"),
            ("crl = 1", f"crl: found an integer, {expected}"),
            ("[client]\nallowed-hosts = 1", f"client.allowed-hosts: found an integer, {expected}"),
        ):
            [found] = self.problems(text)
            self.assertTrue(found.endswith(sentence), found)

    def test_tilde(self) -> None:
        """No shell replaces ``~`` in a file's name."""
        said = "found ~ at the beginning, which only a shell expands, expected the whole path"
        for text, key in (
            ("certificate = '~/server.pem'", "certificate"),
            ("crl = ['a', '~/b']", "crl"),
            ("access-log = '~/log'", "access-log"),
            ("upstream.ca = '~root/ca.pem'", "upstream.ca"),
        ):
            self.assertEqual([f"FILE: line 1: {key}: {said}"], self.problems(text))
        self.assertEqual([], self.problems("preset = '~'"))

    def test_single_values(self) -> None:
        """One text stands for a list of one, wherever texts are listed."""
        settings = read_document(
            self.write("backend = 'http://a'\nclient.allowed-hosts = 'a'\n", 0o600, "proxy.toml")
        ).settings
        assert settings is not None
        self.assertEqual((("http://a",), ("a",)), (settings.backend, settings.client.allowed_hosts))

    def test_pasted_line(self) -> None:
        """A line of Connect2id's configuration is recognised, and its name is not repeated."""
        found = self.refusal(f"demo = true\nop.tls.clientX509CertHeader = {NAME}\n")
        self.assertEqual(
            "FILE: line 2: found a line of Connect2id's configuration, "
            "from which the name belongs in the header-file, expected TOML",
            found,
        )

    def test_numbers(self) -> None:
        """A number beyond every float, or with thousands of digits, is one sentence."""
        self.assertIn(
            "head-timeout: found inf", self.problems(f"client.head-timeout = 1{'0' * 400}")[0]
        )
        self.assertIn(
            "expected 1000000 or less", self.problems(f"client.max-connections = 1{'0' * 400}")[0]
        )
        self.assertIn(
            "found 1e+20, expected 300 or less", self.problems("upstream.retry-delay = 1e20")[0]
        )
        self.assertIn(
            "line 1: found a number with too many digits", self.refusal("a = " + "1" * 5000)
        )

    def test_masked(self) -> None:
        """Values of texts are not repeated, and in words and keys no secret is."""
        for text in (f"trust = '{NAME}'", f"{NAME} = 1", f"client.request-id = '{NAME}'"):
            self.assertNotIn(NAME, "".join(self.problems(text)))


class Offers(DocumentTests):
    def test_missing(self) -> None:
        """A missing key is named in full, with an example or the choice."""
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
                "rules[0].client-certificate: found nothing, expected required, "
                "optional or ignored",
            ),
            (
                "[[certificates]]",
                "certificates[0].certificate: found nothing, expected a PEM file with a chain",
            ),
            (
                "[discovery]",
                "discovery.mtls: found nothing, "
                "expected an https origin such as https://mtls.example.com:8443",
            ),
            ("[health]", "health.path: found nothing, expected a path such as /health"),
            (
                "[admin]",
                "admin.listen: found nothing, expected unix:/path or tcp:9443:interface=127.0.0.1",
            ),
        ):
            self.assertIn(sentence, self.problems(text)[0])

    def test_every_missing_key(self) -> None:
        """Each required key has an example or a choice."""
        seen = 0
        for name, kind in tables().items():
            required = {field.name for field in keys(kind).values() if field.required}
            seen += len(required)
            many = get_origin(keys(ProxySettings)[name].type) is tuple
            _, problems = decode({name: [{}] if many else {}})
            for problem in problems:
                self.assertRegex(problem.text, "found nothing, expected .+")
            found = {problem.key.rpartition(".")[2] for problem in problems}
            # A rule has this key, or another.
            alternatives = {"client-certificate"} if name == "rules" else set()
            self.assertEqual(required | alternatives, found)
        self.assertEqual(7, seen)

    def test_below_a_table(self) -> None:
        """A key of the first level that stands below a table belongs above it."""
        expected = "trust above [client], before the first table of the file"
        self.assertEqual(
            f"FILE: client.trust: found an unknown key, expected {expected}",
            self.mistake("[client]\ntrust = 'any'"),
        )
        self.assertIn(
            "expected trust above [[rules]], before", self.problems("[[rules]]\ntrust = 'any'")[0]
        )

    def test_above_the_tables(self) -> None:
        """A key on the first level that belongs to a table gets the table's name."""
        for key, expected in (
            ("allowed-hosts", "it below [admin] or it below [client]"),
            ("min-body-rate", "it below [client]"),
            ("server-name", "it below [[rules]]"),
        ):
            self.assertEqual(
                f"FILE: {key}: found an unknown key, expected {expected}",
                self.mistake(f"{key} = 1"),
            )

    def test_brackets(self) -> None:
        """Every table's brackets are those that it takes."""
        for key in tables():
            if get_origin(keys(ProxySettings)[key].type) is tuple:
                self.assertIn(f"expected an array, written [[{key}]]", self.refusal(f"[{key}]"))
            else:
                self.assertIn(f"expected a table, written [{key}]", self.refusal(f"[[{key}]]"))

    def test_documented(self) -> None:
        """Every key has its sentence of documentation."""
        kinds: dict[str, type[Settings]] = {"": ProxySettings, **tables()}
        for table, kind in kinds.items():
            for name, field in keys(kind).items():
                self.assertTrue(field.key.doc.endswith("."), f"{table}.{name}")


class Contradictions(TomlTestCase):
    def test_table_with_a_mistake(self) -> None:
        """A table that has a mistake of its own is not called missing as well."""
        self.assertEqual(
            "FILE: line 5: tokens.level: found 'jwtt', expected unverified, jwt or introspection",
            self.refusal("[[rules]]\npath = '/a'\ntoken = 'bound'\n[tokens]\nlevel = 'jwtt'"),
        )


class Syntax(TomlTestCase):
    def test_twice(self) -> None:
        """A key or a table that is there twice is reported as repeated, with its line."""
        for line, text in (
            (2, "ca = 'a'\nca = 'b'"),
            (3, "[tls]\n[client]\n[tls]"),
            (3, "[client]\na = 1\na = 2"),
        ):
            self.assertEqual(
                f"FILE: line {line}: found a key or a table twice, expected TOML",
                self.refusal(text),
            )

    def test_reasons(self) -> None:
        """Other mistakes have the parser's reason, and their line."""
        for line, text in (
            (1, "client = {max-connections = 1, max-connections = 2}"),
            (2, "client = {max-connections = 1}\nclient.max-header-fields = 2"),
            (2, "rules = []\n[[rules]]\npath = '/a'"),
        ):
            self.assertRegex(self.refusal(text), f"^FILE: line {line}: .+, expected TOML$")

    def test_bare_text(self) -> None:
        """A mistake in the quotes has its own sentence, with its line and without "TOML"."""
        for text in ("demo = true\nlisten = tcp:8443", "demo = true\nca = 'a"):
            self.assertRegex(
                self.refusal(text), "^FILE: line 2: found text .+ straight double quotes, such as "
            )

    def test_byte_order_mark(self) -> None:
        """An editor's mark at the beginning is named, since it is invisible."""
        found = "FILE: line 1: found a byte order mark at the beginning, expected TOML"
        self.assertEqual(found, self.refusal("\ufeffdemo = true"))

    def test_deep(self) -> None:
        """Brackets without end are one sentence."""
        found = "FILE: line 2: found too many nested brackets, expected TOML"
        self.assertEqual(found, self.refusal("\na = " + "[" * 5000))


class Text(DocumentTests):
    def test_encoding(self) -> None:
        """A byte order mark, and bytes that are not UTF-8, are named with their line."""
        for data, expected in (
            (b"\xef\xbb\xbftrust = 'any'", "FILE: line 1: found a byte order mark"),
            (b"a = 1\nb = '\xff'", "FILE: line 2: found bytes that are not UTF-8, expected TOML"),
        ):
            self.assertIn(expected, self.refusal(data))

    def test_beyond_the_parser(self) -> None:
        """Nesting and numbers that Python cannot parse are errors of the file."""
        for text, expected in (
            ("a = " + "[" * 100_000, "brackets"),
            ("a = " + "1" * 10_000, "too many digits"),
        ):
            sentence = self.refusal(text)
            self.assertIn(expected, sentence)
            self.assertIn(", expected TOML", sentence)

    def test_open_secret(self) -> None:
        """A file with a secret name in it is private: in ``header``, and in ``[[headers]]``."""
        for text, key in (
            (f'header = "{NAME}"', "header"),
            (f'[[headers]]\nname = "{NAME}"', "headers[0].name"),
            (f'[[headers]]\nname = "a"\nvalue = "{NAME}"', "headers[0].value"),
        ):
            sentence = self.refusal(text, 0o644)
            self.assertIn(f"{key}: ", sentence)
            self.assertIn("0644", sentence)
            self.assertNotIn(NAME, sentence)


class Types(DocumentTests):
    def test_text(self) -> None:
        """Where values come as text, as from the environment, integers are read from it."""
        settings, problems = decode({"client": {"max-body-bytes": "7"}}, as_text=True)
        assert settings is not None
        self.assertEqual(([], 7), ([*problems], settings.client.max_body_bytes))

    def test_infinite(self) -> None:
        """A number beyond a float is above each bound."""
        [sentence] = self.problems(f"[client]\nhead-timeout = {10**400}")
        self.assertIn("client.head-timeout: found inf", sentence)

    def test_wrong(self) -> None:
        """A value of another type is named by its type, and never repeated."""
        for text, expected in (
            (
                '[client]\nhead-timeout = "x"',
                "client.head-timeout: found a string, expected a number",
            ),
            ("[client]\nhead-timeout = true", "client.head-timeout: found true or false"),
            (
                "[client]\nmax-body-bytes = 1.5",
                "client.max-body-bytes: found a number, expected an integer",
            ),
            ("trust = 1", "trust: found an integer, expected any"),
            ("demo = 1", "demo: found an integer, expected true or false"),
        ):
            [sentence] = self.problems(text)
            self.assertIn(expected, sentence)
