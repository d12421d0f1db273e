"""The load generator: its program in Go, built for this run, and its loads.

``bench/generator`` is a TLS client with a certificate. It repeats no request, except for loads of
identical requests, and checks that each response belongs to its request. It needs only Go's
standard library, 1.19 (Debian 12) or newer.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

import attrs
import msgspec

from bench.measure import Meter, busy_share, busy_ticks
from bench.stage import ROOT, BenchError, Files, Stage

__all__ = ["Generator", "Load", "Measured", "bulk", "fresh", "kept", "paced"]


@attrs.frozen
class Load:
    """Arguments of the generator, described by ``go run ./bench/generator -help``.

    ``bearer``: the file of the access token in each request of ``api``, instead of new ones.
    """

    traffic: str
    path: str = "/token"
    connections: int = 16
    warm: int = 100
    count: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    size: int = 0
    fields: int = 0
    fresh: bool = False
    bearer: str = ""

    def arguments(self) -> Sequence[str]:
        """Return the arguments as a command line."""
        return [
            f"-{name}={str(value).lower() if isinstance(value, bool) else value}"
            for name, value in attrs.asdict(self).items()
        ]


def kept(
    traffic: str, seconds: float, connections: int = 16, fields: int = 0, bearer: str = ""
) -> Load:
    """Send requests on kept connections, the next one after each response."""
    return Load(traffic, connections=connections, seconds=seconds, fields=fields, bearer=bearer)


def paced(traffic: str, seconds: float, rate: float) -> Load:
    """Send requests at random times, ``rate`` of them per second, on 32 kept connections."""
    return Load(traffic, connections=32, seconds=seconds, rate=rate)


def fresh(traffic: str, count: int, path: str = "/token") -> Load:
    """Send each request on a connection of its own, with a full handshake; 16 at a time."""
    return Load(traffic, path, warm=2, count=count, fresh=True)


def bulk(traffic: str, size: int, count: int) -> Load:
    """Send long requests or receive long responses, one after the other."""
    return Load(traffic, connections=1, warm=1, count=count, size=size)


@attrs.frozen
class Measured:
    """Figures of one load. CPU times and ``seconds`` are in seconds, latencies in milliseconds.

    ``others``: the share of the machine's CPU for processes beside subject, generator and back end.
    """

    requests: int
    seconds: float
    cpu: float
    generator_cpu: float
    back_end_cpu: float
    others: float
    cipher: str
    p50: float
    p99: float
    p999: float

    @property
    def cost(self) -> float:
        """The CPU of the subject for one request, in µs."""
        return self.cpu / self.requests * 1e6


class _Figures(msgspec.Struct):
    requests: int
    seconds: float
    cpu: float
    cipher: str
    p50: float
    p99: float
    p999: float


class Generator:
    """The generator, built in the folder of the stage; :raises BenchError: there is no Go."""

    def __init__(self, stage: Stage, files: Files, back_end: int) -> None:
        try:
            go = stage.find("go")
        except BenchError:
            raise BenchError(
                "go is not installed: the load generator needs it, 1.19 or newer "
                "(apt-get install golang-go)"
            ) from None
        self._stage = stage
        self._program = stage.folder / "generator"
        self._files = files
        self._back_end = back_end
        sources = sorted(map(str, (ROOT / "bench" / "generator").glob("*.go")))
        command = [go, "build", "-o", str(self._program), *sources]
        stage.run(command, 300.0, _go_environment(stage.folder))

    def drive(self, port: int, subject: int, load: Load) -> Measured:
        """Send one load to the subject of that process id; :raises BenchError: a request failed."""
        process = subprocess.Popen(
            [
                self._program,
                f"-address=127.0.0.1:{port}",
                f"-server-certificate={self._files.server}",
                f"-certificate={self._files.client}",
                f"-key={self._files.client_key}",
                *load.arguments(),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self._stage.prefer(process.pid)
            return self._converse(process, subject)
        finally:
            process.kill()
            process.communicate()

    def _converse(self, process: subprocess.Popen[bytes], subject: int) -> Measured:
        # Each of its sockets has a deadline: it always ends, and so do these reads.
        entry, results = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        ready = results.readline()
        meters = Meter(subject), Meter(self._back_end)
        busy, began = busy_ticks(), time.monotonic()
        if ready:
            with suppress(BrokenPipeError):
                entry.write(b"go\n")
                entry.flush()
        line = results.readline()
        if not line:
            errors = cast("IO[bytes]", process.stderr).read().decode("utf-8", "replace")
            raise BenchError(
                f"the load failed: {' / '.join(errors.split(chr(10))[:2]).strip(' /')}"
            )
        figures = msgspec.json.decode(line, type=_Figures)
        if not figures.requests:
            raise BenchError("no request had a response")
        cpu, back_end_cpu = (meter.seconds() for meter in meters)
        others = busy_share(busy, time.monotonic() - began, cpu + back_end_cpu + figures.cpu)
        return Measured(
            figures.requests,
            figures.seconds,
            cpu,
            figures.cpu,
            back_end_cpu,
            others,
            figures.cipher,
            figures.p50,
            figures.p99,
            figures.p999,
        )


def _go_environment(folder: Path) -> Mapping[str, str]:
    """Compile with this Go alone; without a home there is no cache of compiled packages."""
    homeless = not os.environ.keys() & {"HOME", "GOCACHE", "XDG_CACHE_HOME"}
    cache = {"GOCACHE": str(folder / "cache")} if homeless else {}
    return {"GOTOOLCHAIN": "local", **cache}
