"""Promises of the completions and the manual: they have what the parser has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.support.command_files import command_files, commands, service_options
from x509proxy.forwarding.presets import PRESETS

ROOT = Path(__file__).parents[2]
COMPLETION = ROOT / "contrib" / "completion"
MANUAL = ROOT / "contrib" / "man" / "x509proxy.1"


def run(*command: str, **environment: str) -> str:
    """Return the output of a command, which must succeed without an error message."""
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise SkipTest(f"{name} is not here")
    return found


class Files(SynchronousTestCase):
    def test_current(self) -> None:
        """Each file is made from this parser (``python -m tests.support.command_files``)."""
        for name, text in command_files().items():
            self.assertTrue(text == (ROOT / name).read_text("utf-8"), name)

    def test_help(self) -> None:
        """The generator misses no command and no option that ``--help`` shows."""
        module = (sys.executable, "-m", "x509proxy")
        for command in commands():
            shown = set(re.findall(r"(?<![\w-])--[a-z-]+", run(*module, command.name, "--help")))
            named = {name for option in command.options for name in option.names}
            self.assertEqual(shown - {"--help"}, {name for name in named if name[0] == "-"})
            for option in command.options:
                self.assertTrue(option.help, (command.name, option))
        listed = re.findall(r"^    (\S+)", run(*module, "--help"), re.MULTILINE)
        self.assertEqual({command.name for command in commands()}, set(listed) - {"COMMAND"})

    def test_service(self) -> None:
        """The options of ``twistd x509proxy`` are there, each with a sentence."""
        found = {name for option in service_options() for name in option.names}
        self.assertLessEqual({"--config", "--listen", "--demo", "--version"}, found)
        self.assertTrue(all(option.help for option in service_options()))


class Completion(SynchronousTestCase):
    def test_bash(self) -> None:
        """Bash completes commands, options and known values."""
        script = """
            source "$1"
            shift
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            function=$(complete -p x509proxy | sed 's/.*-F \\(\\S*\\).*/\\1/')
            "$function" x509proxy "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
            printf '%s\\n' "${COMPREPLY[@]}"
        """

        def completed(*words: str) -> set[str]:
            path = str(COMPLETION / "x509proxy.bash")
            return set(run("bash", "-c", script, "bash", path, "x509proxy", *words).split())

        self.assertEqual({"check", "client-certificate"}, completed("c"))
        self.assertEqual({"--show-secret-name"}, completed("echo", "--s"))
        self.assertEqual(set(PRESETS), completed("secret", "--preset", ""))

    def test_fish(self) -> None:
        """Fish completes commands, options and known values."""
        fish = program("fish")
        home = Path(self.mktemp()).absolute()
        home.mkdir()

        def completed(line: str) -> set[str]:
            command = f"source {COMPLETION / 'x509proxy.fish'}; complete -C '{line}'"
            shown = run(fish, "--no-config", "-c", command, HOME=str(home))
            return {row.partition("\t")[0] for row in shown.splitlines()}

        self.assertEqual({"check", "client-certificate"}, completed("x509proxy c"))
        self.assertEqual({"--show-secret-name"}, completed("x509proxy echo --s"))
        self.assertEqual(set(PRESETS), completed("x509proxy secret --preset "))

    def test_zsh(self) -> None:
        """Zsh completes commands, options and known values, at a terminal."""
        # A terminal of its own: completion is a part of the line editor. The word READY must not
        # be in the line that is typed.
        script = """
            zmodload zsh/zpty
            zpty z "$0" -f -i
            zpty -w z "PS1=; fpath=($1 $fpath); autoload -Uz compinit; compinit -u -D; echo RE''ADY"
            zpty -r z out '*READY*'
            zpty -w -n z "$2"$'\\t'
            zpty -r -m z out "*$3*" && print -r -- found
            zpty -d z
        """
        zsh = program("zsh")
        for typed, expected in (
            ("x509proxy ech", "x509proxy echo"),
            ("x509proxy echo --sh", "--show-secret-name"),
            ("x509proxy secret --preset connec", "connect2id"),
        ):
            shown = run(zsh, "-f", "-c", script, zsh, str(COMPLETION), typed, expected)
            self.assertEqual("found\n", shown, typed)


class Manual(SynchronousTestCase):
    def test_clean(self) -> None:
        """Groff formats the manual without a warning, and it has every command."""
        shown = run(program("groff"), "-ww", "-man", "-Tascii", "-P-cbou", str(MANUAL))
        for command in commands():
            self.assertIn(command.name, shown)
            for option in command.options:
                self.assertIn(option.names[0], shown)
