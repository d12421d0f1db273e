"""The reference page of all commands, from their parsers.

``python -m tests.support.commands_page > docs/commands.rst`` writes it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from textwrap import wrap
from unittest.mock import patch

import attrs

from x509proxy.cli import main
from x509proxy.service.options import Options

__all__ = ["PAGES", "commands_page", "parsers"]

_WIDTH = 88
_HEAD = """\
All commands
============

``twistd x509proxy`` is the proxy, and ``x509proxy`` has everything else. The page is
made from their parsers (``python -m tests.support.commands_page``), and a test compares
the two.

An error that the user can mend is one sentence on standard error. No command overwrites
a file.
"""
_PROXY = """\
twistd x509proxy
----------------

.. code-block:: sh

    twistd --nodaemon --pidfile= x509proxy --config /etc/x509proxy/x509proxy.toml

Each option but ``--config`` and ``--demo`` is a key of the configuration file too, and
the command line overrides the file. Keys without an option are set in the file alone
(:doc:`settings`). Other users can read a command line, so the secret header name belongs
into ``--header-file``.

``--nodaemon`` and ``--pidfile=`` are options of ``twistd`` and stand before the name of
the plugin. With them the proxy stays in the foreground and writes no pid file.
"""
_SIGNALS = {
    "SIGHUP": "Read the configuration and all files again (:doc:`operations/reload`).",
    "SIGTERM, SIGINT": (
        "Stop, and complete what is in flight first (:doc:`operations/drain-and-restart`)."
    ),
}
_PROXY_STATUSES = {
    0: "It serves in the background (without ``--nodaemon``).",
    1: "It did not start: the command line, the configuration, a file or a port is wrong.",
    130: "SIGINT stopped it. The number is that of a shell; the process ends by the signal.",
    143: "SIGTERM stopped it, likewise. systemd takes this for success.",
}
_STATUSES = {
    0: "The command did its work.",
    1: "It found an error, and reports it in one sentence.",
    2: "The command line is wrong.",
}
_VALUES = {
    "config": "FILE", "listen": "STRPORTS", "backend": "URL", "preset": "NAME", "header": "NAME",
    "client-certificate": "WORD", "trust": "WORD", "workers": "NUMBER",
}  # fmt: skip


@attrs.frozen
class Page:
    """The guide to one command, with the exit statuses that have a meaning of their own."""

    guide: str
    statuses: Mapping[int, str] = attrs.field(factory=dict)


PAGES = {
    "secret": Page("howto/rotate-header-name"),
    "check": Page(
        "operations/check",
        {
            0: "The configuration is good.",
            1: "It has an error, or a warning with --strict.",
            2: "The command line is wrong.",
        },
    ),
    "presets": Page("servers/index"),
    "client-certificate": Page("howto/rotate-client-certificate"),
    "echo": Page("start"),
    "audit": Page(
        "audit",
        {
            0: "No probe failed.",
            1: "A probe of the severity of --fail-on, or of a worse one, failed.",
            2: "The audit could not run, or the command line is wrong.",
        },
    ),
    "export": Page("export"),
}


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command of ``x509proxy``."""
    return dict(_commands().choices)


def commands_page() -> str:
    """Return the page."""
    parts = [_HEAD, _PROXY, *_table("option", _proxy_options()), *_table("signal", _SIGNALS)]
    parts += _table("exit status", _numbered(_PROXY_STATUSES))
    parts += ["x509proxy", "---------", "", *_table("exit status", _numbered(_STATUSES))]
    parts += [*_wrapped("``check`` and ``audit`` have meanings of their own, see below."), ""]
    summaries = {choice.dest: choice.help or "" for choice in _commands()._choices_actions}
    for name, parser in parsers().items():
        parts += _command(name, parser, summaries[name])
    return "\n".join(parts)


def _commands() -> argparse._SubParsersAction[argparse.ArgumentParser]:
    actions = _console_parser()._actions
    [found] = [one for one in actions if isinstance(one, argparse._SubParsersAction)]
    return found


def _console_parser() -> argparse.ArgumentParser:
    """Return the parser of the console script, captured when it is about to parse."""
    found: list[argparse.ArgumentParser] = []

    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        found.append(parser)
        raise SystemExit

    with patch.object(argparse.ArgumentParser, "parse_args", stop), suppress(SystemExit):
        main([])
    return found[0]


def _proxy_options() -> dict[str, str]:
    options = Options()
    texts = {str(name): str(text) for name, _, _, text in options.optParameters}
    for name in ("listen", "backend"):
        texts[name] = str(getattr(options, f"opt_{name}").__doc__)
    rows = {f"--{name} {_VALUES.get(name, 'FILE')}": texts[name] for name in sorted(texts)}
    return rows | {f"--{name}": str(text) for name, _, text in options.optFlags}


def _command(name: str, parser: argparse.ArgumentParser, summary: str) -> Iterator[str]:
    page = PAGES[name]
    yield from (name, "~" * len(name), "")
    yield from _wrapped(f"{_sentence(summary)} The guide is :doc:`{page.guide}`.")
    yield from ("", ".. code-block:: text", "", *_usage(parser), "")
    rows = {_argument(one): _meaning(one) for one in parser._actions if one.dest != "help"}
    rows = {argument: text for argument, text in rows.items() if text}
    if rows:
        yield from _table("argument", rows)
    if page.statuses:
        yield from _table("exit status", _numbered(page.statuses))


def _usage(parser: argparse.ArgumentParser) -> Iterable[str]:
    """Return the usage in lines of one width: argparse wraps it by that of the terminal."""
    words = " ".join(parser.format_usage().removeprefix("usage: ").split())
    words = re.sub(r"\{[^}]{60,}\}", "WORD", words)
    # An option and its value stay together.
    tied = (
        words.replace(" [-h]", "")
        .replace(" ", "\N{NO-BREAK SPACE}")
        .replace("]\N{NO-BREAK SPACE}", "] ")
    )
    tied = tied.replace("\N{NO-BREAK SPACE}[", " [", 1)
    lines = wrap(
        tied, _WIDTH, initial_indent="    ", subsequent_indent=" " * 8, break_on_hyphens=False
    )
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _argument(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest.upper())
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    if action.choices:
        value = " WORD"
    return ", ".join(f"{option}{value}" for option in action.option_strings)


def _meaning(action: argparse.Action) -> str:
    words = ", ".join(f"``{word}``" for word in action.choices or ())
    if not action.help:
        return words and f"One of {words}."
    return _sentence(action.help) + (words and f" One of {words}.")


def _numbered(statuses: Mapping[int, str]) -> dict[str, str]:
    return {str(number): text for number, text in statuses.items()}


def _table(head: str, rows: Mapping[str, str]) -> Iterator[str]:
    yield from (".. list-table::", "   :header-rows: 1", "   :widths: 30 70", "")
    yield from (f"   * - {head}", "     - meaning")
    for name, text in rows.items():
        yield f"   * - ``{name}``"
        yield from _wrapped(_sentence(text), "     - ")
    yield ""


_LITERAL = re.compile(r"(?<![`\w])(--[a-z-]+|(?:https?|unix|tcp):[\w/:.=-]*\w)")


def _sentence(text: str) -> str:
    """Return a help text as a sentence; options and addresses in it are literals."""
    text = _LITERAL.sub(r"``\1``", " ".join(text.split()))
    text = text if text.endswith((".", "?")) else f"{text}."
    # The first word of a list keeps its case.
    return text if text.split(" ", 1)[0].endswith(",") else text[:1].upper() + text[1:]


def _wrapped(text: str, first: str = "") -> Iterable[str]:
    return wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=" " * len(first),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(commands_page())
