"""Coverage of each module by its own unit tests: ``individual_coverage.py [MODULE…]``.

A module is covered when the tests of ``tests/unit/<package>/test_<module>.py`` alone execute each
of its lines and branches; coverage by other tests is chance. ``MODULE`` is a path, such as
``http1/body.py``; without one each module is measured, in processes of their own.

``--data FILE`` reads the whole suite's coverage, recorded by ``python -m tests.support.contexts``.
Only modules that are incomplete in it are measured alone. It can lack lines that a cache or an
import runs once: they are recorded for the first test alone.

``individual-coverage-pending.txt`` lists modules that are not complete yet; it only shrinks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import coverage

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "x509proxy"
PENDING = ROOT / ".ci" / "individual-coverage-pending.txt"


def main(arguments: list[str]) -> int:
    """Print what is missing; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    parser.add_argument("--data", type=Path, help="the whole suite's coverage, with contexts")
    options = parser.parse_args(arguments)
    # A named module gets a line for each missing line and branch.
    pending = set() if options.modules else set(PENDING.read_text().split())
    modules = options.modules or sorted(measured())
    missing = {}
    if options.data:
        seen = {module: missing_in(options.data, module) for module in modules}
        missing = {module: text for module, text in seen.items() if text and module in pending}
        modules = [module for module, text in seen.items() if text and module not in pending]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        alone = zip(modules, pool.map(missing_alone, modules), strict=True)
        missing |= {module: text for module, text in alone if text}
    sentences = [
        f"x509proxy/{module}: {text}" for module, text in missing.items() if module not in pending
    ] + [
        f"x509proxy/{module}: found it complete, expected it to be off {PENDING.name}"
        for module in sorted(pending - set(missing))
    ]
    print(*sentences, f"{len(modules)} modules measured alone, {len(sentences)} faults", sep="\n")
    return 1 if sentences else 0


def measured() -> Iterator[str]:
    """Yield the modules that have a unit test file, by their paths in the package."""
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).as_posix()
        if (ROOT / test_file(module)).exists():
            yield module


def test_file(module: str) -> Path:
    """Return the test file of a module."""
    path = Path(module)
    return Path("tests/unit") / path.parent / f"test_{path.name}"


def test_module(module: str) -> str:
    """Return the dotted name of a module's test file."""
    return test_file(module).with_suffix("").as_posix().replace("/", ".")


def missing_in(data: Path, module: str) -> str:
    """Return what the module's own tests, and imports, do not execute in the whole suite's data."""
    return report(data, module, ["^$", f"^{test_module(module)}$"])


def missing_alone(module: str) -> str:
    """Run the module's own tests in a process; return what they do not execute."""
    with tempfile.TemporaryDirectory(prefix="coverage-") as folder:
        data = Path(folder) / "data"
        run = ("-m", "coverage", "run", f"--data-file={data}")
        trial = ("-m", "twisted.trial", "--reporter=bwverbose", f"--temp-directory={folder}/t")
        command = [sys.executable, *run, *trial, test_module(module)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"found failed tests, expected them to pass\n{done.stdout}{done.stderr}"
        return report(data, module, None)


def report(data: Path, module: str, contexts: list[str] | None) -> str:
    """Return the lines and branches that the data lacks, as one sentence, or nothing."""
    measure = coverage.Coverage(data_file=str(data), config_file=str(ROOT / "pyproject.toml"))
    measure.load()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        try:
            measure.json_report([str(PACKAGE / module)], outfile=file.name, contexts=contexts)
        except coverage.exceptions.NoDataError:
            return f"found no line covered by {test_file(module)}"
        (found,) = json.loads(Path(file.name).read_text())["files"].values()
    lines = found["missing_lines"]
    # A branch from a missing line adds no information.
    arcs = [f"{start}->{end}" for start, end in found["missing_branches"] if start not in lines]
    if not lines and not arcs:
        return ""
    return f"found lines {lines} and branches {arcs} not covered by {test_file(module)}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
