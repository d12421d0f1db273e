"""``python -m bench``: the tables of :mod:`bench.run`, and on demand profiles and growth."""

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

from bench import hostile, report, tokens
from bench.growth import growth
from bench.plot import draw
from bench.results import Results
from bench.run import FULL, LOADS, QUICK, Plan, Run
from bench.scale import scale
from bench.stage import BenchError, Stage
from bench.subjects import NAMES
from bench.subsystems import profile

_PREFERRED = "-15"  # of -20 to 19
_PROFILED = ("token", "fresh-token")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m bench", description="TLS terminators with client certificates, in one run."
    )
    parser.add_argument("--only", metavar="NAMES", help=f"subjects, of {','.join(NAMES)}")
    parser.add_argument("--loads", metavar="NAMES", help=f"loads, of {','.join(LOADS)}")
    parser.add_argument(
        "--against",
        metavar="PATH",
        action="append",
        default=[],
        help="measure the x509proxy of another checkout in the same run; may be repeated",
    )
    parser.add_argument(
        "--quick", action="store_true", help="one short round, whose figures are not to be quoted"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help=f"rounds of all loads (default {FULL.rounds})",
    )
    parser.add_argument(
        "--seconds", type=int, metavar="N", help="duration of each load on kept connections"
    )
    parser.add_argument(
        "--idle", type=int, metavar="N", help=f"idle connections (default {FULL.idle})"
    )
    parser.add_argument(
        "--rates", metavar="N,N", default="", help="requests per second for further latencies"
    )
    parser.add_argument(
        "--profile", action="store_true", help="CPU by subsystem, too; it needs perf"
    )
    parser.add_argument(
        "--linear",
        action="store_true",
        help="growth of the cost with connections, fields and bodies, too",
    )
    parser.add_argument(
        "--scale",
        action="store_true",
        help="rates of two processes of x509proxy beside one, too (as root)",
    )
    parser.add_argument(
        "--hostile", action="store_true", help="measure hostile clients, and nothing else"
    )
    parser.add_argument(
        "--tokens",
        action="store_true",
        help="measure the check of access tokens by itself, and nothing else",
    )
    parser.add_argument(
        "--priority",
        action="store_true",
        help="prefer the subjects to other processes, for latencies on a busy machine (as root)",
    )
    parser.add_argument(
        "--our-workers", type=int, metavar="N", help="start x509proxy with --workers N"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="write a plot; it needs matplotlib"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure of every round")
    return parser


def _chosen(
    parser: argparse.ArgumentParser, option: str, text: str | None, names: Sequence[str]
) -> Sequence[str]:
    wanted = text.split(",") if text else names
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"{option}: found {', '.join(unknown)}, expected some of {', '.join(names)}")
    return [name for name in names if name in wanted]


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    arguments = parser.parse_args(words)
    arguments.names = _chosen(parser, "--only", arguments.only, NAMES)
    arguments.loads = _chosen(parser, "--loads", arguments.loads, LOADS)
    for option in ("rounds", "seconds", "idle", "our_workers"):
        number = getattr(arguments, option)
        if number is not None and number < 1:
            parser.error(f"--{option.replace('_', '-')}: found {number}, expected at least 1")
    rates = [rate for rate in arguments.rates.split(",") if rate]
    if not all(rate.isdecimal() and int(rate) for rate in rates):
        parser.error(f"--rates: found {arguments.rates}, expected numbers of at least 1")
    arguments.rates = tuple(map(int, rates))
    if arguments.against and "x509proxy" not in arguments.names:
        parser.error("--against: found no x509proxy in --only, expected it there")
    return arguments


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _plan(arguments: argparse.Namespace) -> Plan:
    plan = QUICK if arguments.quick else FULL
    return attrs.evolve(
        plan,
        rounds=arguments.rounds or plan.rounds,
        seconds=arguments.seconds or plan.seconds,
        tail=arguments.seconds or plan.tail,
        idle=arguments.idle or plan.idle,
        rates=arguments.rates,
    )


def _run(arguments: argparse.Namespace, stage: Stage) -> None:
    run = Run(stage, _plan(arguments), _progress)
    run.set_up(arguments.names, arguments.against, arguments.our_workers)
    versions = [f"{subject.name}: {subject.version}" for subject in run.subjects]
    print(report.machine(platform.platform(), versions))
    results = run.measure(arguments.loads)
    print(report.table(results))
    if others := [one.name for one in run.subjects if one.name.startswith("x509proxy@")]:
        print(report.pairs(results, "x509proxy", others))
    if arguments.json:
        arguments.json.write_text(json.dumps(results.as_json(), indent=1), "utf-8")
    _further(arguments, run, results)


def _further(arguments: argparse.Namespace, run: Run, results: Results) -> None:
    if arguments.profile:
        for name in _PROFILED:
            print(f"{name}:\n\n{report.profile(profile(run, run.load(name)))}")
    if arguments.scale:
        print(report.scale(scale(_progress)))
    curves = growth(run) if arguments.linear else []
    if curves:
        print(report.growth(curves))
    if arguments.plot:
        print(draw(arguments.plot, results, curves))


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; :returns: the exit status."""
    arguments = _arguments(words)
    try:
        if arguments.hostile:
            return hostile.main([])
        if arguments.tokens:
            print(report.checks(tokens.check_costs()))
            return 0
        with Stage(_PREFERRED if arguments.priority else None) as stage:
            _run(arguments, stage)
    except BenchError as error:
        _progress(f"{error}.")
        return 1
    except KeyboardInterrupt:
        _progress("Stopped.")
        return 130
    return 0


def _prepare_process() -> None:
    """Raise the limit of open files, and handle other signals as Ctrl-C, for this process alone."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)


if __name__ == "__main__":
    _prepare_process()
    sys.exit(main())
