"""Steps of a release: ``check [TAG]``, ``notes`` and ``build FOLDER``.

``docs/project/releases.rst`` has the whole procedure. The version is in ``setup.py``; each other
place that shows it is compared with that one. A finding has the form
``place: found X, expected Y``.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNRELEASED = "unreleased"

_VERSION = re.compile(r"\d\d\.(?:[1-9]|1[0-2])\.(?:0|[1-9]\d*)")
_IN_SETUP = re.compile(r"^    version=\"([^\"]*)\",$", re.MULTILINE)
_HEADING = re.compile(r"^(\S+) \((\S+)\)\n=+\n", re.MULTILINE)
# Files that show the version to a reader who copies a line from them.
_COPIES = {
    "contrib/Containerfile": re.compile(r"x509proxy:(\d[\w.]*)"),
    "contrib/kubernetes/base/kustomization.yaml": re.compile(r"newTag: \"([^\"]*)\""),
}


def version(root: Path) -> str:
    """Return the version, from ``setup.py``."""
    return "".join(_IN_SETUP.findall((root / "setup.py").read_text("utf-8")))


def findings(root: Path, tag: str | None) -> Iterator[str]:
    """Yield each disagreement about the version; a tag demands a finished changelog too."""
    expected = version(root)
    if not _VERSION.fullmatch(expected):
        yield f"setup.py: found version {expected!r}, expected YY.M.N, such as 26.11.0"
    for name, pattern in _COPIES.items():
        for found in pattern.findall((root / name).read_text("utf-8")):
            if found != expected:
                yield f"{name}: found {found}, expected {expected}"
    number, date, _ = section(root)
    if number != expected:
        yield f"CHANGELOG.rst: found {number} in the first heading, expected {expected}"
    if tag is not None:
        yield from tag_findings(root, tag, expected, date)


def tag_findings(root: Path, tag: str, expected: str, date: str) -> Iterator[str]:
    """Yield the reasons why a tag cannot be released."""
    if tag != f"v{expected}":
        yield f"tag: found {tag}, expected v{expected}"
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        yield f"CHANGELOG.rst: found the date {date}, expected YYYY-MM-DD"
    if fragments := sorted(path.name for path in (root / "changelog.d").glob("[0-9+]*.rst")):
        yield f"changelog.d: found {', '.join(fragments)}, expected all of them in CHANGELOG.rst"


def section(root: Path) -> tuple[str, str, str]:
    """Return version, date and text of the newest section of the changelog."""
    text = (root / "CHANGELOG.rst").read_text("utf-8")
    headings = list(_HEADING.finditer(text))
    if not headings:
        return "nothing", UNRELEASED, ""
    end = headings[1].start() if len(headings) > 1 else len(text)
    return headings[0][1], headings[0][2], text[headings[0].end() : end].strip() + "\n"


def build(root: Path, folder: Path) -> None:
    """Build both archives of the last commit, dated by it, and write their hashes."""
    if changed := git(root, "status", "--porcelain", "--ignored"):
        sys.exit(f"working tree: found {changed.splitlines()[0].strip()}, expected a clean clone")
    moment = git(root, "log", "-1", "--format=%ct").strip()
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(root)]
    subprocess.run(command, env={**os.environ, "SOURCE_DATE_EPOCH": moment}, check=True)
    archives = sorted([*folder.glob("*.whl"), *folder.glob("*.tar.gz")])
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in archives]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")


def git(root: Path, *arguments: str) -> str:
    """Return the output of a git command."""
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main(arguments: list[str]) -> int:
    """Run one step; return the exit status."""
    match arguments:
        case ["check", *tag] if len(tag) <= 1:
            found = list(findings(ROOT, tag[0] if tag else None))
            print("\n".join(found) or f"{version(ROOT)}: the files agree")
            return 1 if found else 0
        case ["notes"]:
            print(section(ROOT)[2], end="")
            return 0
        case ["build", folder]:
            build(ROOT, Path(folder).resolve())
            return 0
    print("usage: release.py check [TAG] | notes | build FOLDER", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
