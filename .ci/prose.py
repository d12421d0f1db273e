"""Prose check: ``prose.py [FILE…]``, over docstrings, messages and documentation.

It reports openings, words and sentences that the rules for writing exclude (CONTRIBUTING.rst).
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_WORDS = 30  # the aim is 25

_OPENING = re.compile(r"\A(?:What|Whether|Who|Whose|Whom|How|That|Whatever|Whoever)\b(?!.*\?\Z)")
_WORDS = re.compile(
    r"\b(?:whoever|whomever|nobody|somebody|such an?|be it|of ours|of theirs|none of a)\b"
    r"|\b(?:the proxy|back ends?|servers?|clients?|a machine|it) "
    r"(?:says?|hears?|tells?|believes?|knows?)\b"
    r"|\bgoes? deaf\b|\bdeaf\b|\bthe house\b|\bfloor plan\b|\blaws? (?:L\d|of the house)|\(law L\d",
    re.IGNORECASE,
)
_BORDER = re.compile(r" *=+(?: +=+)+ *")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')*]*\s+(?=[A-Z`*\"'(])")
_LITERAL = re.compile(r"``[^`]*``|:\w+(?::\w+)?:`[^`]*`|`[^`]*`_*|https?://\S+")


def main(names: list[str]) -> int:
    """Print each finding; return the exit status."""
    paths = [Path(name).resolve() for name in names] or tracked()
    status = 0
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        for line, text in check(path):
            print(f"{name}:{line}: {text}")
            status = 1
    return status


def tracked() -> list[Path]:
    """Return the Python modules and pages that are in the repository."""
    command = ["git", "ls-files", "*.py", "*.rst", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split() if not name.startswith("changelog.d/")]


def check(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line numbers and findings of one file."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        for line, prose, is_docstring in python_prose(text):
            yield from faults(line, prose, opening=is_docstring)
    else:
        for line, prose in paragraphs(text):
            yield from faults(line, prose, opening=False)


def python_prose(source: str) -> Iterator[tuple[int, str, bool]]:
    """Yield a module's docstrings, by paragraph, and the sentences that it logs or raises."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            # The first text is the node's own; the others are those of attributes.
            for statement in node.body:
                match statement:
                    case ast.Expr(value=ast.Constant(value=str(docstring))):
                        for line, prose in paragraphs(docstring):
                            yield statement.lineno + line - 1, prose, line == 1
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            (".info", ".warn", ".error", ".critical", ".failure", "Error", "ErrorResponse")
        ):
            for argument in node.args:
                for part in ast.walk(argument):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield part.lineno, part.value, False


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs of reStructuredText and the cells of its simple tables.

    Literal blocks, other tables and directives are left out.
    """
    text, tables = without_tables(text)
    yield from tables
    kept: list[str] = []
    start, literal = 1, None
    for number, line in enumerate([*text.expandtabs(4).split("\n"), ""], 1):
        indent = len(line) - len(line.lstrip())
        stripped = line.strip()
        if literal is not None and (not stripped or indent > literal):
            continue
        literal = None
        item = re.match(r"(?:[*+-]|\d+\.|:[\w ]+:|\.\.)\s", stripped)
        if not stripped or item or re.match(r"[=~^\-+|]{3,}", stripped):
            if kept:
                yield start, " ".join(kept)
            kept = []
        if re.match(r"\.\. (?!note|warning|tip|important)", stripped):
            literal = indent
        elif stripped and not re.match(r"[=~^\-+|]{3,}", stripped):
            start = start if kept else number
            kept.append(re.sub(r"^(?:[*+-]|\d+\.)\s+", "", stripped))
            if stripped.endswith("::"):
                yield start, " ".join(kept)
                kept, literal = [], indent


def without_tables(text: str) -> tuple[str, list[tuple[int, str]]]:
    """Return the text with its simple tables blanked out, and the cells of these."""
    lines = text.split("\n")
    borders = [n for n, line in enumerate(lines) if _BORDER.fullmatch(line)]
    found: list[tuple[int, str]] = []
    for top, head, end in zip(*[iter(borders)] * 3, strict=False):
        columns = [match.start() for match in re.finditer("=+", lines[top])]
        for number in (n for n in range(top, end) if n not in (top, head)):
            line = lines[number]
            cells = [line[a:b].strip() for a, b in pairwise([*columns, None])]
            continued = bool(found) and not cells[0]
            rows = found[-len(columns) :] if continued else [(number + 1, "")] * len(columns)
            found[len(found) - len(columns) * continued :] = [
                (at, f"{old} {new}".strip()) for (at, old), new in zip(rows, cells, strict=True)
            ]
        lines[top : end + 1] = [""] * (end + 1 - top)
    return "\n".join(lines), found


def faults(line: int, prose: str, *, opening: bool) -> Iterator[tuple[int, str]]:
    """Yield the faults of one paragraph: its opening, words and long sentences."""
    plain = _LITERAL.sub("X", prose)
    if opening and (found := _OPENING.match(plain)):
        yield line, f"found a docstring that opens with {found[0]!r}, expected a noun or a verb"
    for found in _WORDS.finditer(plain):
        yield line, f"found {found[0]!r}, expected a plain term"
    for sentence in _SENTENCE_END.split(plain):
        count = len(sentence.split())
        if count > MAX_WORDS:
            yield (
                line,
                f"found a sentence of {count} words, expected {MAX_WORDS} or fewer: "
                f"{sentence[:50]}…",
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
