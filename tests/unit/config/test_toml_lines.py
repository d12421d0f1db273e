"""Tests of :mod:`x509proxy.config.toml_lines`."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.config.toml_lines import Lines

TEXT = '''\
# a = [comment]
a = 1
"b" = "x # no comment"  # [
listen = [
    "tcp:1",  # one, two
    'tcp:2',
]
long = """
c = 2
\\"""[[rules]]
"""
d.e = {f = "}", g = [1, 2]}
plain = \'\'\'
h = 3
\'\'\'

[client]
max-body-bytes = 1
[ client . "x" ]
y = 1

[[rules]]
path = "/a"
[[rules]]

path = "/b"
[rules.more]
z = 1
'''


class Places(SynchronousTestCase):
    def test_lines(self) -> None:
        """Each key has its line, behind comments, long strings, lists and tables."""
        tomllib.loads(TEXT)
        lines = Lines(TEXT)
        for key, line in (
            ("a", 2), ("b", 3), ("listen", 4), ("listen[0]", 5), ("listen[1]", 6), ("long", 8),
            ("d.e", 12), ("plain", 13),
            ("client", 17), ("client.max-body-bytes", 18), ("client.x.y", 20), ("rules", 22),
            ("rules[0]", 22),
            ("rules[0].path", 23), ("rules[1]", 24), ("rules[1].path", 26), ("rules[1].more.z", 28),
        ):  # fmt: skip
            self.assertEqual(line, lines.find(key), key)

    def test_nearest(self) -> None:
        """A key without a line has that of its table, and else none."""
        lines = Lines(TEXT)
        self.assertEqual(12, lines.find("d.e.f"))
        self.assertEqual(17, lines.find("client.idle-timeout"))
        self.assertEqual(22, lines.find("rules[0].server-name"))
        self.assertEqual(0, lines.find("other"))
        self.assertEqual(0, lines.find("c"))

    def test_reasons(self) -> None:
        """A repeated key and a pasted line have a reason of their own."""
        lines = Lines("a = 1\na = 2\nop.tls.x = Y\nb = 1")
        self.assertEqual("found a key or a table twice", lines.reason_at(2))
        self.assertIn("Connect2id", lines.reason_at(3))
        self.assertEqual("", lines.reason_at(4))
        self.assertEqual("", lines.reason_at(9))

    @given(st.text(alphabet="a.=[]{}\"'#\n, \\", max_size=60))
    def test_any_text(self, text: str) -> None:
        """For any text, each line is one that it has; and a key of a document is found."""
        lines = Lines(text)
        self.assertLessEqual(lines.find("a"), text.count("\n") + 1)
        try:
            table = tomllib.loads(text)
        except ValueError:
            return
        for key in table:
            if key == "a":
                self.assertGreater(lines.find(key), 0, text)
