"""The grammar of a head: start line, field lines, empty line (RFC 9112 sections 2 to 5), strictly.

Facts
-----
* A head is accepted only if one regular expression matches all of it. Its fields are split off
  afterwards, by an expression that relies on this. ``docs/http-grammar.rst`` has the rules.
* No repetition can match the octet that may follow it, and those of octets are possessive (``++``,
  ``*+``). So matching is linear in the head: ``tests/unit/http1/test_grammar.py`` measures it.
* A repeated group is not possessive: Python 3.11 before 3.11.5 matches such ones wrongly
  (python/cpython#106052), and Debian 12 has 3.11.2. What a group gives back is whole lines, and
  behind none of them can the rest match.
* CR, LF and NUL are in no class of octets, and a line end is CRLF. RFC 9112 section 2.2 permits a
  recipient to accept a bare LF; requests are smuggled where two recipients differ about it.
"""

from __future__ import annotations

import re

import attrs

from x509proxy.http1.fields import Pairs

__all__ = [
    "REQUEST",
    "REQUEST_TEXT_OCTETS",
    "RESPONSE",
    "TOKEN",
    "Grammar",
    "Malformed",
    "check_lines",
    "split_fields",
]

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
"""``tchar`` (RFC 9110 section 5.6.2)."""
# VCHAR, SP and HTAB (RFC 9110 section 5.5). obs-text is for responses alone: OAuth has no use for
# it in requests, and servers disagree about its meaning.
_REQUEST_TEXT = rb"[\t -~]"
_RESPONSE_TEXT = rb"[\t -~\x80-\xff]"
# RFC 9112 section 3; the forms of a target are x509proxy.http1.request_target's subject.
_REQUEST_LINE = rb"(%b++) ([!-~]++) HTTP/1\.([01])" % TOKEN
# RFC 9112 section 4 wants the second space even without a reason phrase. Servers that leave out
# both exist, and no recipient reads such a line in another way (h11 has a list of reports).
_STATUS_LINE = rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: (%b*+))?" % _RESPONSE_TEXT

REQUEST_TEXT_OCTETS = b"\t" + bytes(range(0x20, 0x7F))
"""The octets of a field value in a request."""
_OBS_TEXT_OCTETS = bytes(range(0x80, 0x100))

_FRAMING = frozenset({b"transfer-encoding", b"content-length"})
_FIELD = re.compile(rb"([^:]++):[ \t]*+([^\r]*+)\r\n")


class Malformed(Exception):
    """Octets that cannot become a head, whatever follows them."""


@attrs.frozen
class Grammar:
    """The expressions for one kind of head.

    ``head``: the whole head; its last group is the block of field lines. ``line``: the start line
    without its line end. ``fields``: as many complete field lines as there are. ``octets``: all
    that may stand anywhere in a head.
    """

    head: re.Pattern[bytes]
    line: re.Pattern[bytes]
    fields: re.Pattern[bytes]
    octets: bytes


def _grammar(line: bytes, text: bytes, octets: bytes) -> Grammar:
    # field-line (RFC 9112 section 5): no white space before the colon, no obs-fold (5.1, 5.2).
    fields = rb"(?:%b++:%b*+\r\n)*" % (TOKEN, text)
    return Grammar(
        re.compile(rb"%b\r\n(%b)\r\n" % (line, fields)),
        re.compile(line),
        re.compile(fields),
        octets + b"\r\n",
    )


REQUEST = _grammar(_REQUEST_LINE, _REQUEST_TEXT, REQUEST_TEXT_OCTETS)
"""Groups of ``head``: method, target, last digit of the version, fields."""
RESPONSE = _grammar(_STATUS_LINE, _RESPONSE_TEXT, REQUEST_TEXT_OCTETS + _OBS_TEXT_OCTETS)
"""Groups of ``head``: last digit of the version, status, reason phrase or ``None``, fields."""


def split_fields(block: bytes) -> Pairs:
    """Split the field lines of a head that has matched; values lose the white space around them.

    A tab behind a value that frames the message is kept, and so makes it malformed: llhttp does not
    recognise ``chunked`` before a tab.
    """
    pairs: Pairs = _FIELD.findall(block)
    if b" \r\n" in block or b"\t\r\n" in block:
        return [
            (name, value.rstrip(b" " if name.lower() in _FRAMING else b" \t"))
            for name, value in pairs
        ]
    return pairs


def check_lines(grammar: Grammar, part: bytes, start: int, new: int) -> int:
    """Check an incomplete head after its start line; return the offset of its incomplete line.

    Each complete line is matched once, and other octets are only searched, so a head that comes
    one octet at a time costs no more than its length.

    ``start``: where the first line stands that has not been checked, 0 before the start line is
    complete; ``new``: where the octets begin that have just come.

    :raises Malformed: no octets behind these make them a head.
    """
    if part[new:].translate(None, grammar.octets):
        raise Malformed
    if part.find(b"\n", max(start, new)) >= 0:
        start = grammar.fields.match(part, start).end()  # type: ignore[union-attr]  # it may match nothing
        if part.find(b"\n", start) >= 0:
            raise Malformed
    if 0 <= part.find(b"\r", start) < len(part) - 1:
        raise Malformed
    return start
