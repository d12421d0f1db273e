"""Promises of ``bench`` about a run: back end, load generator, configurations, and its end."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import cast
from unittest import mock

import attrs
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from bench import __main__ as command
from bench import load, subjects
from bench.backend import RESPONSE, BackEnd
from bench.run import FULL, LOADS, QUICK, Run
from bench.stage import ROOT, BenchError, Stage, make_files
from tests.support.ports import free_port
from x509proxy.config.loader import load_configuration, load_settings


class RequestTransport:
    """A transport that keeps the output of a back end's connection."""

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
        """A request in two pieces has one response, and the connection stays open."""
        self.assertEqual(RESPONSE, self.hear(b"GET /token HTTP/1.1\r\nHo", b"st: x\r\n\r\n"))
        self.assertFalse(self.wire.closed)

    def test_headers(self) -> None:
        """The response lists the fields as they arrived, repeats included."""
        said = self.hear(b"GET /headers HTTP/1.1\r\nHost: x\r\nA: 1\r\na: 2\r\n\r\n")
        self.assertEqual(
            [["Host", "x"], ["A", "1"], ["a", "2"]], json.loads(said.partition(b"\r\n\r\n")[2])
        )

    def test_upload(self) -> None:
        """A response follows once the whole body has arrived, and the next request is served."""
        self.assertEqual(
            b"", self.hear(b"POST /token HTTP/1.1\r\nContent-Length: 8\r\n\r\nabc", b"d")
        )
        self.assertEqual(RESPONSE, self.hear(b"efgh"))
        self.assertEqual(2 * RESPONSE, self.hear(b"GET /token HTTP/1.1\r\n\r\n"))

    def test_unique(self) -> None:
        """A request with an id receives a response of its own, with that id, in any spelling."""
        request = b"GET /a HTTP/1.1\r\nX-FAPI-Interaction-ID: 7\r\n\r\n"
        one = self.hear(request)
        other = self.hear(request)[len(one) :]
        for response in (one, other):
            self.assertIn(b"\r\nx-fapi-interaction-id: 7\r\n", response)
        heads, bodies = zip(*(text.split(b"\r\n\r\n") for text in (one, other)), strict=True)
        self.assertNotEqual(*heads)
        self.assertNotEqual(*bodies)
        self.assertTrue(heads[0].endswith(b"\r\nContent-Length: %d" % len(bodies[0])))

    def test_slow(self) -> None:
        """A slow path has its response after the think time, and not before."""

        async def respond() -> bytes:
            self.assertEqual(b"", self.hear(b"GET /slow/token HTTP/1.1\r\n\r\n"))
            while not self.wire.written:
                await asyncio.sleep(0)
            return self.wire.written

        self.assertEqual(RESPONSE, asyncio.run(respond()))

    def test_download(self) -> None:
        """A download has the requested size, and waits for a slow reader."""
        self.hear(b"GET /bytes/2000000 HTTP/1.1\r\n\r\n")
        self.assertLess(len(self.wire.written), 1_000_000)
        for _ in range(20):
            self.wire.end.resume_writing()
        self.assertEqual(2_000_000, len(self.wire.written.partition(b"\r\n\r\n")[2]))

    def test_close(self) -> None:
        """At ``Connection: close`` a back end announces its end (RFC 9112 section 9.6)."""
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
        """The configuration that x509proxy is measured with is valid: a log, and TLS 1.3 only."""
        place = self.place()
        path = place.folder / "x509proxy.conf"
        path.write_text(subjects._RECIPES["x509proxy"].configuration(place), "utf-8")
        settings = load_settings(str(path))
        load_configuration(settings)
        self.assertEqual(str(place.folder / "x509proxy-access.log"), settings.access_log)
        self.assertEqual("1.3", settings.tls.minimum_version.value)

    def test_protected(self) -> None:
        """x509proxy with a rule about tokens accepts the token of the load, and no made-up one."""
        with Stage() as stage:
            lines: list[str] = []
            run = Run(stage, attrs.evolve(QUICK, seconds=0.1), lines.append)
            if shutil.which("go") is None:
                raise SkipTest("go is not installed")
            run.set_up(["x509proxy"])
            (column,) = run.measure(["bound"]).columns
            self.assertEqual("bound", column.key)
            assert run._protected is not None
            protected, token = run._protected
            self.assertEqual(0o600, token.stat().st_mode & 0o777)
            with self.assertRaisesRegex(BenchError, "400 Bad Request"):
                run.drive(protected, load.kept("api", 0.1), "without")

    def test_workers(self) -> None:
        """The command line has ``--workers`` only where a number of workers is set."""
        recipe = subjects._RECIPES["x509proxy"]
        self.assertEqual(["--workers", "3"], list(recipe.command("python", self.place(3)))[-2:])
        self.assertNotIn("--workers", recipe.command("python", self.place()))

    def test_secret(self) -> None:
        """No command line shows the header's name, and the keys are for one user only."""
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
        """Every configuration file removes or replaces the one header with the certificate."""
        place = self.place()
        for name in ("nginx", "haproxy", "apache"):
            self.assertIn(place.files.header_name, subjects._RECIPES[name].configuration(place))

    def test_checkout(self) -> None:
        """Another checkout writes its own configuration, and a folder without one is rejected."""
        with Stage() as stage:
            files = make_files(stage.folder)
            subject = subjects.start_checkout(stage, str(ROOT), files, free_port())
            self.assertEqual(f"x509proxy@{ROOT.name}", subject.name)
            command_line = Path(f"/proc/{subject.pid}/cmdline").read_text("utf-8")
            self.assertNotIn(files.header_name, command_line)
            (stage.folder / "none").mkdir()
            with self.assertRaises(BenchError):
                subjects.start_checkout(stage, str(stage.folder / "none"), files, free_port())


class Generators(SynchronousTestCase):
    """The generator through the subject ``bare``, which is always there."""

    def setUp(self) -> None:
        if shutil.which("go") is None:
            raise SkipTest("go is not installed")
        self.lines: list[str] = []
        stage = Stage()
        stage.__enter__()
        self.addCleanup(stage.__exit__, None, None, None)
        self.run_ = Run(
            stage, attrs.evolve(QUICK, seconds=0.1, tail=0.1, fresh=20, idle=16), self.lines.append
        )
        self.run_.set_up(["bare"])
        (self.subject,) = self.run_.subjects

    def test_loads(self) -> None:
        """Each load has responses, a cost and latencies.

        This subject does not support long bodies.
        """
        results = self.run_.measure()
        self.assertIn("1, bare: token ", "\n".join(self.lines))
        keys = [column.key for column in results.columns]
        self.assertEqual(["idle", "token", "api", "fresh-token", "paced"], keys[:5])
        self.assertIn("bare, bound: it compares no token with the certificate.", results.remarks)
        self.assertEqual(["same", "fresh-get"], keys[-2:])
        for column in results.columns:
            self.assertGreaterEqual(results.figure(column.key, "bare") or -1.0, 0.0, column.key)
        self.assertIn("bare, down, up: it holds a body in memory as a whole.", results.remarks)
        self.assertTrue(results.remarks[-1].startswith("Cipher suites: all TLS_"))

    def test_counts(self) -> None:
        """Fresh connections end with their count; a rate and the order of latencies are kept."""
        measured = self.run_.drive(self.subject, load.fresh("token", 30), "fresh")
        self.assertEqual(30, measured.requests)
        self.assertGreater(measured.cost, 50)
        measured = self.run_.drive(self.subject, load.paced("token", 1.0, 300), "paced")
        self.assertApproximates(300, measured.requests, 75)
        self.assertLessEqual(measured.p50, measured.p99)

    def test_fails(self) -> None:
        """A load that fails is an error of one sentence, and so is one without any response."""
        for what, reason in (
            (load.Load("no-such"), "expected token, api"),
            (load.Load("token", path="/headers", warm=1), "interaction-id of another request"),
        ):
            with self.assertRaisesRegex(BenchError, reason):
                self.run_.drive(self.subject, what, "failing")

    def test_other_server(self) -> None:
        """A response of another server than the subject is an error."""
        files = attrs.evolve(self.run_.files, server=self.run_.files.client)
        generator = load.Generator(self.run_.stage, files, self.subject.pid)
        with self.assertRaisesRegex(BenchError, "another certificate than expected"):
            generator.drive(self.subject.port, self.subject.pid, load.fresh("same", 1))


class Uniqueness(SynchronousTestCase):
    def requests(self, traffic: str, bearer: str = "") -> list[tuple[list[bytes], bytes]]:
        """Return heads, as lines, and bodies of four requests on one connection."""
        if shutil.which("go") is None:
            raise SkipTest("go is not installed")
        found: list[tuple[list[bytes], bytes]] = []
        with Stage() as stage:
            files = make_files(stage.folder)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files.server, files.server_key)
            listener = socket.create_server(("127.0.0.1", 0))
            self.addCleanup(listener.close)
            thread = threading.Thread(target=self.serve, args=(listener, context, found))
            thread.start()
            generator = load.Generator(stage, files, os.getpid())
            what = load.Load(traffic, connections=1, warm=1, count=3, bearer=bearer)
            generator.drive(listener.getsockname()[1], os.getpid(), what)
            thread.join()
        return found

    @staticmethod
    def serve(
        listener: socket.socket, context: ssl.SSLContext, found: list[tuple[list[bytes], bytes]]
    ) -> None:
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True) as secured:
            while data := secured.recv(65536):
                head, _, body = data.partition(b"\r\n\r\n")
                lines = head.split(b"\r\n")
                found.append((lines, body))
                repeated = [line for line in lines if line.startswith(b"x-fapi-")]
                response = [b"HTTP/1.1 200 OK", *repeated, b"content-length: 0", b"", b""]
                secured.sendall(b"\r\n".join(response))

    def test_token(self) -> None:
        """Token requests have a password, an id and a form of 300 bytes, and share none of them."""
        found = self.requests("token")
        self.assertEqual([300] * 4, [len(body) for _, body in found])
        self.assertEqual(4, len({body for _, body in found}))
        for name in (b"Authorization: Basic ", b"x-fapi-interaction-id: "):
            values = {line for lines, _ in found for line in lines if line.startswith(name)}
            self.assertEqual(4, len(values), name)

    def test_api(self) -> None:
        """API requests have a path, an access token, a trace and an id, and share none of them."""
        found = self.requests("api")
        self.assertEqual(4, len({lines[0] for lines, _ in found}))
        for name in (b"Authorization: Bearer ", b"traceparent: 00-", b"x-fapi-interaction-id: "):
            values = {line for lines, _ in found for line in lines if line.startswith(name)}
            self.assertEqual(4, len(values), name)

    def test_bearer(self) -> None:
        """API requests with a given token have that one, and share nothing else."""
        path = Path(self.mktemp())
        path.write_text("a.b.c")
        found = self.requests("api", bearer=str(path.absolute()))
        fields = {line for lines, _ in found for line in lines if line.startswith(b"Authorization")}
        self.assertEqual({b"Authorization: Bearer a.b.c"}, fields)
        self.assertEqual(4, len({lines[0] for lines, _ in found}))

    def test_same(self) -> None:
        """Identical requests are identical."""
        self.assertEqual(1, len({tuple(lines) for lines, _ in self.requests("same")}))


class Runs(SynchronousTestCase):
    def run_stage(self, error: BaseException) -> tuple[int, Path]:
        """Make a stage whose back end is started before an error: its process, and its folder."""
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
        """After any end of a run, Ctrl-C too, its processes have ended, and its folder is gone."""
        for error in (KeyboardInterrupt(), ValueError()):
            pid, folder = self.run_stage(error)
            self.assertFalse(folder.exists())
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    def test_does_not_start(self) -> None:
        """The error for a program that ends instead of listening has its last output."""
        with (
            Stage() as stage,
            self.assertRaisesRegex(BenchError, "one does not start: no such luck"),
        ):
            stage.start("one", [sys.executable, "-c", "print('no such luck')"], free_port())

    def test_priority(self) -> None:
        """Without the right to change the priority there is an error of one sentence.

        Without the option nothing is changed.
        """
        Stage().prefer(2**30)
        with self.assertRaisesRegex(BenchError, "--priority: it takes root"):
            Stage("-15").prefer(2**30)

    def test_fails(self) -> None:
        """A tool that fails, takes too long or does not exist is an error of one sentence."""
        with Stage() as stage:
            self.assertEqual("1\n", stage.run([sys.executable, "-c", "print(1)"]))
            with self.assertRaisesRegex(BenchError, "failed: alas"):
                stage.run([sys.executable, "-c", "print('alas'); raise SystemExit(3)"])
            with self.assertRaisesRegex(BenchError, "took more than 0 s"):
                stage.run([sys.executable, "-c", "while True: pass"], seconds=0.01)
            with self.assertRaisesRegex(BenchError, "no-such-program is not installed"):
                stage.find("no-such-program")


class SetUp(SynchronousTestCase):
    def set_up(self, failing: set[str], checkouts: Sequence[str] = ()) -> Run:
        """Run two subjects, some of which cannot be started."""

        def start(_stage: Stage, name: str, *_: object) -> subjects.Subject:
            if name in failing:
                raise BenchError(f"{name} is not installed")
            return subjects.Subject(name, "1.0", 8443, 1)

        with (
            Stage() as stage,
            mock.patch.object(stage, "find", return_value="tool"),
            mock.patch("bench.run.start_back_end", return_value=(8080, 1)),
            mock.patch("bench.run.Generator"),
            mock.patch("bench.run.start_subject", start),
            mock.patch("bench.run.start_checkout", start),
            mock.patch("bench.proof.prove", return_value=True),
        ):
            said: list[str] = []
            run = Run(stage, QUICK, said.append)
            run.set_up(["nginx", "x509proxy"], checkouts)
            return run

    def test_missing(self) -> None:
        """A missing subject is left out, with a message; the others are measured."""
        run = self.set_up({"nginx"})
        self.assertEqual(["x509proxy"], [subject.name for subject in run.subjects])
        self.assertEqual(["nginx is left out: nginx is not installed."], run.left_out)

    def test_none(self) -> None:
        """Without any subject there is no run."""
        with self.assertRaisesRegex(BenchError, "no subject is left"):
            self.set_up({"nginx", "x509proxy"})

    def test_checkouts(self) -> None:
        """Other checkouts come before x509proxy, and are compared with the same reference."""
        run = self.set_up(set(), ["old", "older"])
        names = [subject.name for subject in run.subjects]
        self.assertEqual(["nginx", "old", "older", "x509proxy"], names)


class Arguments(SynchronousTestCase):
    def test_subjects(self) -> None:
        """All subjects, or some; nginx first, since the others are compared with it."""
        self.assertEqual(list(subjects.NAMES), command._arguments([]).names)
        names = command._arguments(["--only", "x509proxy,nginx"]).names
        self.assertEqual(["nginx", "x509proxy"], names)

    def test_loads(self) -> None:
        """All loads, or some, in the order of the table."""
        self.assertEqual(list(LOADS), command._arguments([]).loads)
        self.assertEqual(["token", "up"], command._arguments(["--loads", "up,token"]).loads)

    def test_plan(self) -> None:
        """Amounts that are not given are those of a full run, or of a quick one."""
        self.assertEqual(FULL, command._plan(command._arguments([])))
        words = ["--quick", "--rounds", "9", "--seconds", "2", "--idle", "7", "--rates", "500,2000"]
        expected = attrs.evolve(QUICK, rounds=9, seconds=2, tail=2, idle=7, rates=(500, 2000))
        self.assertEqual(expected, command._plan(command._arguments(words)))

    def test_rejected(self) -> None:
        """Unknown names and numbers below one are errors, before a run begins."""
        for words in (
            ["--only", "nginx,iis"], ["--loads", "tokens"], ["--rounds", "0"],
            ["--our-workers", "-1"],
            ["--rates", "500,x"], ["--rates", "0"], ["--only", "nginx", "--against", "old"],
        ):  # fmt: skip
            with self.assertRaises(SystemExit), redirect_stderr(io.StringIO()):
                command._arguments(words)

    def test_tokens(self) -> None:
        """``--tokens`` measures the checks, and nothing else."""
        with (
            mock.patch("bench.tokens.check_costs", return_value=[]),
            redirect_stdout(io.StringIO()) as out,
        ):
            self.assertEqual(0, command.main(["--tokens"]))
        self.assertIn("check of a token, µs", out.getvalue())

    def test_hostile(self) -> None:
        """``--hostile`` runs the hostile loads, and nothing else."""
        with mock.patch("bench.hostile.main", return_value=3):
            self.assertEqual(3, command.main(["--hostile"]))
