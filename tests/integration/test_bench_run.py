"""Promises of ``bench`` about a run: its back end, its subjects' configurations, and that nothing of it is left behind."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import cast
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from bench import __main__ as command
from bench import subjects
from bench.backend import ANSWER, BackEnd
from bench.run import QUICK, Run
from bench.stage import ROOT, BenchError, Stage, make_files
from tests.support.ports import free_port
from x509proxy.config.loader import load_configuration, load_settings


class RequestTransport:
    """What a back end's connection writes."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False
        self.end = BackEnd()
        self.end.connection_made(cast("asyncio.Transport", self))

    def write(self, data: bytes) -> None:
        self.written += data
        if len(self.written) > 500_000:
            self.end.pause_writing()

    def close(self) -> None:
        self.closed = True


class BackEnds(SynchronousTestCase):
    def setUp(self) -> None:
        self.wire = RequestTransport()

    def hear(self, *pieces: bytes) -> bytes:
        for piece in pieces:
            self.wire.end.data_received(piece)
        return self.wire.written

    def test_token(self) -> None:
        """A request in two pieces has one answer, and the connection stays."""
        self.assertEqual(ANSWER, self.hear(b"GET /token HTTP/1.1\r\nHo", b"st: x\r\n\r\n"))
        self.assertFalse(self.wire.closed)

    def test_headers(self) -> None:
        """The fields are told as they came, repeats included."""
        said = self.hear(b"GET /headers HTTP/1.1\r\nHost: x\r\nA: 1\r\na: 2\r\n\r\n")
        self.assertEqual(
            [["Host", "x"], ["A", "1"], ["a", "2"]], json.loads(said.partition(b"\r\n\r\n")[2])
        )

    def test_upload(self) -> None:
        """A body is answered when all of it has come, and the next request after it."""
        self.assertEqual(
            b"", self.hear(b"POST /token HTTP/1.1\r\nContent-Length: 8\r\n\r\nabc", b"d")
        )
        self.assertEqual(ANSWER, self.hear(b"efgh"))
        self.assertEqual(2 * ANSWER, self.hear(b"GET /token HTTP/1.1\r\n\r\n"))

    def test_download(self) -> None:
        """As many bytes as asked for, no more of them at a time than the other side takes."""
        self.hear(b"GET /bytes/2000000 HTTP/1.1\r\n\r\n")
        self.assertLess(len(self.wire.written), 1_000_000)
        for _ in range(20):
            self.wire.end.resume_writing()
        self.assertEqual(2_000_000, len(self.wire.written.partition(b"\r\n\r\n")[2]))

    def test_close(self) -> None:
        """Who is asked to close says so and does (RFC 9112 section 9.6)."""
        self.assertIn(
            b"\r\nConnection: close\r\n",
            self.hear(b"GET /token HTTP/1.0\r\nConnection: close\r\n\r\n"),
        )
        self.assertTrue(self.wire.closed)


class Subjects(SynchronousTestCase):
    def place(self, workers: int | None = None) -> subjects.Place:
        # Not trial's own: a unix socket's path has 107 bytes at the most.
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        return subjects.Place(folder, make_files(folder), 8443, 8080, workers)

    def test_ours(self) -> None:
        """The configuration that x509proxy is measured with is one that it takes, with an access log, and TLS 1.3 only."""
        place = self.place()
        path = place.folder / "x509proxy.conf"
        path.write_text(subjects._RECIPES["x509proxy"].configuration(place), "utf-8")
        settings = load_settings(str(path))
        load_configuration(settings)
        self.assertEqual(str(place.folder / "x509proxy-access.log"), settings.access_log)
        self.assertEqual("1.3", settings.tls.minimum_version.value)

    def test_workers(self) -> None:
        """Workers are asked for on the command line, and only if they are."""
        recipe = subjects._RECIPES["x509proxy"]
        self.assertEqual(["--workers", "3"], list(recipe.command("python", self.place(3)))[-2:])
        self.assertNotIn("--workers", recipe.command("python", self.place()))

    def test_secret(self) -> None:
        """No command line shows the header's name, and nobody else reads the keys."""
        place = self.place()
        for recipe in subjects._RECIPES.values():
            self.assertNotIn(place.files.header_name, " ".join(recipe.command("program", place)))
        for path in (
            place.files.server_key,
            place.files.server_both,
            place.files.client_both,
            place.files.header,
        ):
            self.assertEqual(0o600, path.stat().st_mode & 0o777)

    def test_same_header(self) -> None:
        """Every configuration file removes or replaces the one header that carries the certificate."""
        place = self.place()
        for name in ("nginx", "haproxy", "apache"):
            self.assertIn(place.files.header_name, subjects._RECIPES[name].configuration(place))


class Runs(SynchronousTestCase):
    def run_stage(self, error: BaseException) -> tuple[int, Path]:
        """A stage on which the back end is started before an error comes: its process, and its folder."""
        with self.assertRaises(type(error)), Stage() as stage:
            port = free_port()
            pid = stage.start(
                "back-end",
                [sys.executable, "-P", str(ROOT / "bench" / "backend.py"), str(port)],
                port,
            )
            folder = stage.folder
            raise error
        return pid, folder

    def test_nothing_stays(self) -> None:
        """Whatever ends a run, Ctrl-C too: its processes have ended, and its folder is gone."""
        for error in (KeyboardInterrupt(), ValueError()):
            pid, folder = self.run_stage(error)
            self.assertFalse(folder.exists())
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    def test_does_not_start(self) -> None:
        """A program that ends instead of listening is said to, with its last words."""
        with (
            Stage() as stage,
            self.assertRaisesRegex(BenchError, "one does not start: no such luck"),
        ):
            stage.start("one", [sys.executable, "-c", "print('no such luck')"], free_port())

    def test_fails(self) -> None:
        """A tool that fails is one sentence, and so is one that takes too long, or is not there."""
        with Stage() as stage:
            self.assertEqual("1\n", stage.run([sys.executable, "-c", "print(1)"]))
            with self.assertRaisesRegex(BenchError, "failed: alas"):
                stage.run([sys.executable, "-c", "print('alas'); raise SystemExit(3)"])
            with self.assertRaisesRegex(BenchError, "took more than 0 s"):
                stage.run([sys.executable, "-c", "while True: pass"], seconds=0.01)
            with self.assertRaisesRegex(BenchError, "no-such-program is not installed"):
                stage.find("no-such-program")


class SetUp(SynchronousTestCase):
    def set_up(self, failing: set[str]) -> Run:
        """A run of two subjects, of which some cannot be started."""

        def start(_stage: Stage, name: str, *_: object) -> subjects.Subject:
            if name in failing:
                raise BenchError(f"{name} is not installed")
            return subjects.Subject(name, "1.0", 8443, 1)

        with (
            Stage() as stage,
            mock.patch.object(stage, "find", return_value="tool"),
            mock.patch("bench.run.start_back_end", return_value=8080),
            mock.patch("bench.run.start_subject", start),
            mock.patch("bench.run.start_front", return_value={}),
            mock.patch("bench.proof.prove", return_value=True),
        ):
            said: list[str] = []
            run = Run(stage, QUICK, said.append)
            run.set_up(["nginx", "x509proxy"])
            return run

    def test_missing(self) -> None:
        """A subject that is not there is left out, with a sentence; the others are measured."""
        run = self.set_up({"nginx"})
        self.assertEqual(["x509proxy"], [subject.name for subject in run.subjects])
        self.assertEqual(["nginx is left out: nginx is not installed."], run.left_out)

    def test_none(self) -> None:
        """Without any subject there is no run."""
        with self.assertRaisesRegex(BenchError, "no subject is left"):
            self.set_up({"nginx", "x509proxy"})


class Arguments(SynchronousTestCase):
    def parse(self, *words: str) -> Sequence[str]:
        names: Sequence[str] = command._arguments(words).names
        return names

    def test_names(self) -> None:
        """All subjects, or some; nginx first, since the others are compared with it."""
        self.assertEqual(("nginx", "haproxy", "apache", "stock", "x509proxy"), tuple(self.parse()))
        self.assertEqual(["nginx", "x509proxy"], self.parse("--only", "x509proxy,nginx"))

    def test_refused(self) -> None:
        """Names that are none and numbers below one stop it at once."""
        for words in (["--only", "nginx,iis"], ["--rounds", "0"], ["--our-workers", "-1"]):
            with self.assertRaises(SystemExit), redirect_stderr(io.StringIO()):
                self.parse(*words)
