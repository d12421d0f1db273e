"""``python -m bench``: the table of :mod:`bench.run`, and on demand latency and growth."""

from __future__ import annotations

import argparse
import json
import platform
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import attrs

from bench import report
from bench.growth import growth, tail
from bench.plot import draw
from bench.run import FULL, QUICK, Run
from bench.scale import scale
from bench.stage import BenchError, Stage
from bench.subjects import NAMES


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench", description="TLS terminators with client certificates, in one run."
    )
    parser.add_argument("--only", metavar="NAMES", help=f"some of {','.join(NAMES)}")
    parser.add_argument(
        "--quick", action="store_true", help="one short round: a look, no figures to quote"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help=f"how often everything is measured (default {FULL.rounds})",
    )
    parser.add_argument(
        "--idle", type=int, metavar="N", help=f"idle connections (default {FULL.idle})"
    )
    parser.add_argument("--latency", action="store_true", help="latency at half load, too")
    parser.add_argument(
        "--linear",
        action="store_true",
        help="how cost grows with connections, fields and bodies, too",
    )
    parser.add_argument(
        "--scale",
        action="store_true",
        help="what two processes of ours carry beside one, too (as root)",
    )
    parser.add_argument(
        "--our-workers", type=int, metavar="N", help="start x509proxy with --workers N"
    )
    parser.add_argument(
        "--plot", type=Path, default=Path("bench.svg"), metavar="FILE", help="default %(default)s"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure of every round")
    arguments = parser.parse_args(words)
    wanted = arguments.only.split(",") if arguments.only else NAMES
    arguments.names = [name for name in NAMES if name in wanted]
    if unknown := [name for name in wanted if name not in NAMES]:
        parser.error(f"--only: {', '.join(unknown)} is not one of {', '.join(NAMES)}")
    if any(
        number is not None and number < 1
        for number in (arguments.rounds, arguments.idle, arguments.our_workers)
    ):
        parser.error("--rounds, --idle and --our-workers: at least 1")
    return arguments


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(arguments: argparse.Namespace, stage: Stage) -> None:
    plan = QUICK if arguments.quick else FULL
    plan = attrs.evolve(
        plan, rounds=arguments.rounds or plan.rounds, idle=arguments.idle or plan.idle
    )
    run = Run(stage, plan, _say)
    run.set_up(arguments.names, arguments.our_workers)
    print(
        report.machine(
            platform.platform(), [f"{subject.name}: {subject.version}" for subject in run.subjects]
        )
    )
    results = run.measure()
    print(report.table(results))
    if arguments.scale:
        print(report.scale(scale(_say)))
    if arguments.latency:
        print(report.latency(tail(run)))
    curves = growth(run) if arguments.linear else []
    if curves:
        print(report.growth(curves))
    print(draw(arguments.plot, results, curves))
    if arguments.json:
        arguments.json.write_text(json.dumps(results.as_json(), indent=1), "utf-8")


def main(words: Sequence[str] | None = None) -> int:
    """:returns: the exit status."""
    arguments = _arguments(words)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        with Stage() as stage:
            _run(arguments, stage)
    except BenchError as error:
        _say(f"{error}.")
        return 1
    except KeyboardInterrupt:
        _say("Stopped.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
