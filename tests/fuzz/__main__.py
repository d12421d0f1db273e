"""Fuzz run, guided by coverage if ``atheris`` can be imported, otherwise by chance.

Findings are printed, and the exit status is not zero then.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

_SEEDS = Path(__file__).parent / "seeds"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each direction (default: 60)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--direction", choices=("requests", "answers", "both"), default="both")
    parser.add_argument(
        "--findings", type=int, default=1, help="stop after so many (without atheris)"
    )
    parser.add_argument("--chance", action="store_true", help="by chance, even if atheris is there")
    options = parser.parse_args()
    directions = ("requests", "answers") if options.direction == "both" else (options.direction,)
    if not options.chance and len(directions) == 1 and _has_atheris():
        _guided(directions[0], options.seconds, options.seed)
    return max(_one(direction, options) for direction in directions)


def _one(direction: str, options: argparse.Namespace) -> int:
    if not options.chance and _has_atheris():
        # atheris ends its process.
        arguments = (
            "--direction",
            direction,
            "--seconds",
            str(options.seconds),
            "--seed",
            str(options.seed),
        )
        return subprocess.run(
            [sys.executable, "-m", "tests.fuzz", *arguments], check=False
        ).returncode
    from tests.fuzz.campaign import run

    report = run(direction, options.seconds, options.seed, most=options.findings)
    sys.stdout.write(f"{direction}: {report}\n")
    return 1 if report.findings else 0


def _has_atheris() -> bool:
    return find_spec("atheris") is not None


def _guided(direction: str, seconds: int, seed: int) -> None:
    # The type checker need not find it.
    atheris = import_module("atheris")
    with atheris.instrument_imports(include=["x509proxy"]):
        from tests.fuzz.campaign import Finding, judge
        from tests.fuzz.mutator import LARGEST, WORDS

    def one(data: bytes) -> None:
        if faults := judge(direction, data):
            sys.stdout.write(f"{direction}: {Finding(data, faults)}\n")
            sys.stdout.flush()
            raise AssertionError(faults[0])

    found = Path(tempfile.mkdtemp(prefix="x509proxy-fuzz-"))
    words = found / "words"
    words.write_text(
        "".join('"' + "".join(f"\\x{octet:02x}" for octet in word) + '"\n' for word in WORDS),
        encoding="ascii",
    )
    (corpus := found / direction).mkdir()
    limits = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-max_len={LARGEST}",
        f"-dict={words}",
    ]
    places = [f"-artifact_prefix={found}/", str(corpus), str(_SEEDS / direction)]
    sys.stdout.write(f"{direction}: new inputs are kept in {corpus}\n")
    sys.stdout.flush()
    atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", *places], one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
