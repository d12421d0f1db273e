"""Promises of the commands in the documentation: they mean the same in bash and in zsh."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import attrs
from twisted.trial.unittest import SkipTest, SynchronousTestCase

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.rst")), ROOT / "README.rst", ROOT / "CONTRIBUTING.rst"]
SHELLS = {"sh", "bash", "shell", "console"}
# The first words of literal blocks that are commands.
COMMANDS = re.compile(
    r"(?:apt-get|certbot|cp|curl|echo|for|git|install|ip|journalctl|kill|kubectl|lego|mkdir|nox"
    r"|openssl|pip|podman|printf|python3?|sed|ssh|systemctl|tail|trial|twistd|umask|x509proxy)\b"
)
# zsh's own uses of these variables.
SPECIAL = re.compile(r"(?:^|[;&|{(]\s*|\bfor )(path|status|argv|cdpath|fpath|options)(?==| in )")
QUOTED = re.compile(r"'[^']*'|\"(?:[^\"\\]|\\.)*\"|\\.|\$\(|\$\?|\$@|\$#")
TRAPS = {
    "a comment, which an interactive zsh runs": re.compile(r"(?:^|\s)#"),
    "a pattern without quotes, which zsh expands or rejects": re.compile(
        r"(?<=[^\s\[;&|])\[|[^\s$]\?|(?<=\s)\?|[^\s(|]\*|(?<=\s)\*(?!\))"
    ),
    "a word that begins with =, which zsh looks up": re.compile(r"(?<=\s)==?\S+|(?<=\s)=="),
    "a variable without quotes, which zsh does not split": re.compile(r"(?<=\s)\$\w+"),
}
# With one write, since the commands of a pipe run at the same time.
RECORD = 'r=; for a; do r="$r<$a>"; done; printf "%s\\n" "$r" >>"$LOG"'
# What a shell does by itself, and must only be recorded.
STUBS = "".join(
    f'{name}() {{ set -- {name} "$@"; {RECORD}; }}\n' for name in ("cd", "exec", "kill")
)


@attrs.frozen
class Block:
    """Commands of a page."""

    where: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page that are commands for a shell."""
    lines = page.read_text("utf-8").split("\n")
    for number, line in enumerate(lines):
        directive = re.match(r"\s*\.\. code-block:: (\w+)", line)
        if directive or (line.rstrip().endswith("::") and not line.lstrip().startswith("..")):
            text = indented(lines[number + 1 :], len(line) - len(line.lstrip()))
            if text.startswith("#!"):
                # A file of its own.
                continue
            if directive[1] in SHELLS if directive else COMMANDS.match(text):
                yield Block(f"{page.relative_to(ROOT)}:{number + 1}", text)


def indented(lines: list[str], indent: int) -> str:
    """Return the lines that are deeper than ``indent``, without options of a directive."""
    found = []
    for line in lines:
        if line.strip() and len(line) - len(line.lstrip()) <= indent:
            break
        found.append(line)
    return re.sub(r"\A(?::\w+:.*\n)+", "", dedent("\n".join(found)).strip("\n")).strip("\n")


def traps(text: str) -> list[str]:
    """Return the constructs in a block that mean something else in zsh."""
    bare = QUOTED.sub("_", text.replace("\\\n", " "))
    # Documents for a command are no commands.
    bare = re.sub(r"<<_\n.*?\n\w+$", "", bare, flags=re.DOTALL | re.MULTILINE)
    found = [
        f"{name}: {match[0]}"
        for name, trap in TRAPS.items()
        for line in bare.split("\n")
        for match in trap.finditer(line)
    ]
    return found + [f"a special variable: {match[1]}" for match in SPECIAL.finditer(bare)]


class Commands(SynchronousTestCase):
    def setUp(self) -> None:
        self.blocks = [block for page in PAGES for block in blocks(page)]
        # The pages have these at least.
        self.assertGreater(len(self.blocks), 60)

    def test_traps(self) -> None:
        """No block has a construct that zsh takes otherwise."""
        found = {block.where: traps(block.text) for block in self.blocks if traps(block.text)}
        self.assertEqual({}, found)

    def test_same_in_zsh(self) -> None:
        """Each block calls the same commands with the same arguments, in bash and in zsh."""
        zsh = shutil.which("zsh")
        if zsh is None:
            raise SkipTest("zsh is not here")
        bash = [shutil.which("bash") or "bash", "--norc", "--noprofile", "-s"]
        called = 0
        for block in self.blocks:
            expected = self.calls(bash, "command_not_found_handle", block.text)
            found = self.calls([zsh, "-f", "-i"], "command_not_found_handler", block.text)
            self.assertEqual(expected, found, block.where)
            called += len(expected)
        self.assertGreater(called, len(self.blocks))

    def calls(self, shell: list[str], handler: str, text: str) -> list[str]:
        """Return the commands that a shell calls, sorted; none of them is run."""
        folder = Path(self.mktemp()).absolute()
        (folder / "here").mkdir(parents=True)
        log = folder / "log"
        log.touch()
        setup = f"{handler}() {{ {RECORD}; }}\n{STUBS}PATH=/nonexistent; PS1=; PS2=\n"
        subprocess.run(
            shell,
            input=f"{setup}{text}\n",
            cwd=folder / "here",
            env={"LOG": str(log), "HOME": "/h"},
            text=True,
            capture_output=True,
            timeout=30,
            check=False,
        )
        return sorted(log.read_text("utf-8").splitlines())


class Detection(SynchronousTestCase):
    def test_traps(self) -> None:
        """Each trap is found, and its safe form is not."""
        for bad, good in (
            ("pip install .[metrics]", "pip install '.[metrics]'"),
            ("curl https://a/?b=c", 'curl "https://a/?b=c"'),
            ("ls *.pem", "ls a.pem"),
            ("systemctl stop a # on b", "systemctl stop a"),
            ("# first", "echo '# first'"),
            ("[ a == b ]", "[ a = b ]"),
            ("curl $ASK", 'curl "$ASK"'),
            ("status=1", "result=1"),
            ("for path in a; do echo; done", "for file in a; do echo; done"),
        ):
            self.assertEqual((1, []), (len(traps(bad)), traps(good)), bad)
