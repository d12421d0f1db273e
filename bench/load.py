"""What drives the subjects: ``ab``, ``wrk`` and ``curl``, and what they print, read.

* ``ab -E client.pem`` without ``-k``: each request on a connection of its own, with a full handshake (``ab`` never resumes).
* ``wrk`` through the front (:func:`bench.subjects.start_front`): keep-alive requests.
* ``curl``: one body of many bytes. ``ab -k``: many bodies, one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import attrs

from bench.stage import BenchError, Files, Stage

__all__ = [
    "Bodies",
    "Wrk",
    "bodies",
    "download",
    "fresh",
    "keep_alive",
    "paced",
    "parse_ab",
    "parse_wrk",
    "upload",
]

_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60000.0}
_CONNECTIONS = 8
# Neither the subject's rate nor a whole millisecond for all: between nought and twice the mean.
_PACED = "local mean = tonumber(os.getenv('BENCH_MEAN'))\nfunction delay() return math.random(0, 2 * mean) end\n"


@attrs.frozen
class Wrk:
    """``requests`` answered within ``seconds``; ``p99`` in ms, if it was asked for."""

    requests: int
    seconds: float
    p99: float | None = None


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text, re.MULTILINE)
    return int(found[1]) if found else 0


def parse_ab(text: str) -> int:
    """How many requests were answered; :raises BenchError: one was not, or not with a 2xx."""
    done, failed = (
        _number(r"^Complete requests: +(\d+)", text),
        _number(r"^Failed requests: +(\d+)", text),
    )
    others = _number(r"^Non-2xx responses: +(\d+)", text)
    if failed or others or not done:
        raise BenchError(
            f"ab: of {done} requests {failed} failed, {others} were answered with an error"
        )
    return done


def parse_wrk(text: str) -> Wrk:
    """What ``wrk`` measured; :raises BenchError: an answer was not 2xx, or a connection failed."""
    total = re.search(r"^ *(\d+) requests in ([\d.]+)(us|ms|s|m),", text, re.MULTILINE)
    errors = re.findall(r"^ *(?:Non-2xx or 3xx responses|Socket errors):.*", text, re.MULTILINE)
    if total is None or not int(total[1]) or errors:
        raise BenchError(
            f"wrk: {' / '.join(line.strip() for line in errors) or 'no request was answered'}"
        )
    tail = re.search(r"^ *99% +([\d.]+)(us|ms|s|m)$", text, re.MULTILINE)
    p99 = float(tail[1]) * _UNITS[tail[2]] if tail else None
    return Wrk(int(total[1]), float(total[2]) * _UNITS[total[3]] / 1000, p99)


def fresh(stage: Stage, files: Files, port: int, count: int) -> int:
    """``count`` connections with a handshake and one request each, some at a time."""
    command = [
        stage.find("ab"),
        "-q",
        "-n",
        str(count),
        "-c",
        str(_CONNECTIONS),
        "-f",
        "TLS1.3",
        "-E",
        str(files.client_both),
    ]
    return parse_ab(stage.run([*command, f"https://127.0.0.1:{port}/token"]))


def keep_alive(
    stage: Stage, front: int, seconds: float, connections: int = _CONNECTIONS, fields: int = 1
) -> Wrk:
    """Requests with so many header fields, ``Host`` included, for so many whole seconds."""
    further = [
        part
        for number in range(1, fields)
        for part in ("-H", f"X-Field-{number}: some value {number}")
    ]
    command = [
        stage.find("wrk"),
        "-t1",
        f"-c{connections}",
        f"-d{seconds:.0f}s",
        "--timeout",
        "10s",
        *further,
    ]
    return parse_wrk(stage.run([*command, f"http://127.0.0.1:{front}/token"]))


def paced(stage: Stage, front: int, seconds: float, rate: float, connections: int = 32) -> Wrk:
    """About ``rate`` requests a second: each of the connections waits at random between two, which is not part of the latency."""
    script = stage.folder / "paced.lua"
    script.write_text(_PACED, "utf-8")
    command = [
        stage.find("wrk"),
        "-t1",
        f"-c{connections}",
        f"-d{seconds:.0f}s",
        "--latency",
        "-s",
        str(script),
    ]
    mean = f"{connections / rate * 1000:.0f}"
    return parse_wrk(
        stage.run([*command, f"http://127.0.0.1:{front}/token"], environment={"BENCH_MEAN": mean})
    )


def _curl(stage: Stage, files: Files, port: int, path: str, *further: str) -> None:
    command = [
        stage.find("curl"), "-sSf", "-o", "/dev/null", "--tlsv1.3", "--http1.1", "--cacert", str(files.server),
        "--cert", str(files.client), "--key", str(files.client_key), *further,
    ]  # fmt: skip
    stage.run([*command, f"https://localhost:{port}{path}"])


def download(stage: Stage, files: Files, port: int, size: int) -> None:
    """One answer of ``size`` bytes."""
    _curl(stage, files, port, f"/bytes/{size}")


def upload(stage: Stage, files: Files, port: int, size: int) -> None:
    """One request with a body of ``size`` bytes and its ``Content-Length``."""
    _curl(
        stage, files, port, "/token", "-X", "POST", "-T", str(_body(stage, size)), "-H", "Expect:"
    )


def _body(stage: Stage, size: int) -> Path:
    # Without any block on the disk: zeros, as the back end's are.
    path = stage.folder / f"body-{size}"
    with path.open("ab") as file:
        file.truncate(size)
    return path


@attrs.frozen
class Bodies:
    """``count`` bodies of ``size`` bytes."""

    size: int
    count: int


def bodies(stage: Stage, files: Files, port: int, what: Bodies, up: bool) -> int:
    """Bodies, one after the other on one connection, in requests or in answers."""
    command = [
        stage.find("ab"),
        "-q",
        "-k",
        "-n",
        str(what.count),
        "-c",
        "1",
        "-f",
        "TLS1.3",
        "-E",
        str(files.client_both),
    ]
    further: Sequence[str] = (
        ["-T", "application/octet-stream", "-p", str(_body(stage, what.size))] if up else []
    )
    path = "/token" if up else f"/bytes/{what.size}"
    return parse_ab(stage.run([*command, *further, f"https://127.0.0.1:{port}{path}"]))
