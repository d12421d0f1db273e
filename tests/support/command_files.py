"""Completion and manual of the commands: ``python -m tests.support.command_files``.

All of them are made from the parser of the console script and the options of ``twistd x509proxy``.
A test compares them with the committed files. shtab writes the completions.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import attrs
import shtab

from x509proxy.certificates.self_signed import KeyKind
from x509proxy.cli import make_parser
from x509proxy.forwarding.presets import PRESETS
from x509proxy.service.options import Options

__all__ = ["Command", "Option", "command_files", "commands", "service_options"]

ROOT = Path(__file__).parents[2]
SHELLS = {"bash": "x509proxy.bash", "zsh": "_x509proxy", "fish": "x509proxy.fish"}
EXIT_STATUS = (
    ("0", "Success."),
    (
        "1",
        "A fault, with one sentence for each on standard error. For check, a configuration with "
        "errors, or with --strict one with warnings. For audit, a probe that failed.",
    ),
    ("2", "A wrong command line. For audit, an audit that could not run."),
)
FILES = (
    ("/etc/x509proxy/x509proxy.toml", "The configuration, by custom. No command has a default."),
    ("/etc/x509proxy/header.txt", "The secret header name, by custom."),
)


@attrs.frozen
class Option:
    """One option or argument of a command line."""

    names: tuple[str, ...]
    value: str
    help: str

    @property
    def written(self) -> str:
        """Return the names with the value."""
        return " ".join(filter(None, [", ".join(self.names), self.value]))


@attrs.frozen
class Command:
    """One command with its options."""

    name: str
    help: str
    options: tuple[Option, ...]


def command_files() -> dict[str, str]:
    """Return the content of each file, by its name in the repository."""
    files = {f"contrib/completion/{name}": completion(shell) for shell, name in SHELLS.items()}
    return {**files, "contrib/man/x509proxy.1": manual()}


# The commands.


def commands() -> tuple[Command, ...]:
    """Return the commands of the console script."""
    actions = _subparsers(make_parser())
    helps = {action.dest: action.help or "" for action in actions._choices_actions}
    return tuple(
        Command(name, helps[name], tuple(_options(parser)))
        for name, parser in actions.choices.items()
    )


def _subparsers(
    parser: argparse.ArgumentParser,
) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    [found] = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    return found


def _options(parser: argparse.ArgumentParser) -> Iterator[Option]:
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        takes_value = action.nargs != 0
        name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        if action.option_strings:
            yield Option(
                tuple(action.option_strings), name if takes_value else "", action.help or ""
            )
        else:
            shown = f"[{name}]" if action.nargs == "?" else name
            yield Option((shown,), "", action.help or "")


def service_options() -> tuple[Option, ...]:
    """Return the options of ``twistd x509proxy``."""
    options = Options()
    return tuple(
        Option(
            (f"--{name.rstrip('=')}",), "VALUE" if name.endswith("=") else "", _one_line(help_text)
        )
        for name in sorted(options.longOpt)
        if (help_text := options.docs[name.rstrip("=")]) and name != "help"
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


# Completion.


def completion(shell: str) -> str:
    """Return the completion for one shell, with files and known values as arguments."""
    parser = make_parser()
    for name, command in _subparsers(parser).choices.items():
        for action in command._actions:
            _complete(name, action)
    return shtab.complete(parser, shell)


def _complete(command: str, action: argparse.Action) -> None:
    if action.dest == "preset" or (command, action.dest) == ("presets", "name"):
        action.choices = sorted(PRESETS)
    elif action.dest == "kind":
        action.choices = [kind.value for kind in KeyKind]
    elif action.metavar in {"FILE", "CONFIG.toml"}:
        action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's own convention


# The manual.


def manual() -> str:
    """Return the manual page."""
    lines = [
        '.TH X509PROXY 1 "" "x509proxy" "User Commands"',
        *_section("NAME"),
        "x509proxy \\- tools of the reverse proxy for OAuth clients with certificates (RFC 8705)",
        *_section("SYNOPSIS"),
        ".B x509proxy",
        ".I COMMAND",
        "[\\fIOPTION\\fR]...",
        ".br",
        ".B twistd x509proxy",
        "[\\fIOPTION\\fR]...",
        *_section("DESCRIPTION"),
        _roff(
            "twistd x509proxy runs the proxy. It terminates TLS, and passes the certificate of the "
            "client on in the one header that the authorization server trusts. x509proxy has the "
            "commands around it."
        ),
        *_section("COMMANDS"),
        *(line for command in commands() for line in _command(command)),
        *_section("OPTIONS OF TWISTD X509PROXY"),
        *(line for option in service_options() for line in _item(option.written, option.help)),
        *_section("EXIT STATUS"),
        *(line for status, text in EXIT_STATUS for line in _item(status, text)),
        *_section("FILES"),
        *(line for name, text in FILES for line in _item(name, text)),
        *_section("SEE ALSO"),
        ".BR twistd (1),",
        ".BR openssl (1)",
    ]
    return "\n".join(lines) + "\n"


def _section(title: str) -> tuple[str, ...]:
    return (f".SH {_roff(title)}",)


def _command(command: Command) -> Iterator[str]:
    yield f".SS {_roff(command.name)}"
    yield _roff(_sentence(command.help))
    for option in command.options:
        yield from _item(option.written, _sentence(option.help))


def _item(term: str, text: str) -> tuple[str, ...]:
    return (".TP", f"\\fB{_roff(term)}\\fR", _roff(text))


def _roff(text: str) -> str:
    """Escape a text: backslashes and hyphens, and a line that could be a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _sentence(text: str) -> str:
    whole = text[:1].upper() + text[1:]
    return whole if not whole or whole.endswith((".", "?")) else f"{whole}."


def main() -> None:
    """Write every file."""
    for name, text in command_files().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
