"""Tests of :mod:`x509proxy.service.background_writer`."""

from __future__ import annotations

import os
import pty
import socket
import sys
import time
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger, LogPublisher, textFileLogObserver
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.service.background_writer import (
    BackgroundWriter,
    LogStream,
    may_block,
    unblock_log,
)

LINE = b"x" * 99 + b"\n"


class PipeTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reader, self.descriptor = os.pipe()
        self.addCleanup(os.close, self.reader)

    def read_to_end(self) -> bytes:
        """All that comes until the other end is closed."""
        return b"".join(iter(lambda: os.read(self.reader, 65536), b""))


class Kinds(PipeTestCase):
    def test_blocking(self) -> None:
        """A pipe, a socket and a terminal may block; a file, /dev/null and /dev/full do not."""
        near, far = socket.socketpair()
        terminal = pty.openpty()
        for descriptor in (self.descriptor, near.fileno(), terminal[1]):
            self.assertTrue(may_block(descriptor))
        for path in (__file__, os.devnull, "/dev/full"):
            with open(path, "rb") as file:  # noqa: PTH123 - a device is no Path to be read
                self.assertFalse(may_block(file.fileno()))
        near.close()
        far.close()
        for descriptor in (*terminal, self.descriptor):
            os.close(descriptor)


class Writing(PipeTestCase):
    def test_order(self) -> None:
        """Every line arrives, in order, and the descriptor is closed after the last one."""
        writer = BackgroundWriter(self.descriptor)
        lines = [b"%d\n" % number for number in range(5000)]
        for line in lines:
            writer.write(line)
        writer.close()
        self.assertEqual(b"".join(lines), self.read_to_end())
        self.assertEqual((0, ""), (writer.dropped, writer.error))

    def test_nothing(self) -> None:
        """One that was never used closes its descriptor as well."""
        BackgroundWriter(self.descriptor).close()
        self.assertEqual(b"", self.read_to_end())

    def test_reader_that_stops(self) -> None:
        """No write waits; lines beyond the buffer are dropped and counted, and later ones go on."""
        writer = BackgroundWriter(self.descriptor, max_bytes=10000)
        before = time.monotonic()
        for _ in range(2000):
            writer.write(LINE)
        writer.drain(0.1)
        self.assertLess(time.monotonic() - before, 5)
        self.assertGreater(writer.dropped, 1000)
        self.assertEqual("its reader has stopped", writer.error)
        writer.close()
        self.assertEqual(2000 - writer.dropped, self.read_to_end().count(LINE))

    def test_not_waiting_descriptor(self) -> None:
        """A descriptor that others have made non-blocking is written to as well, and stays so."""
        os.set_blocking(self.descriptor, False)
        writer = BackgroundWriter(self.descriptor)
        for _ in range(2000):
            writer.write(LINE)
        writer.drain(0.1)
        self.assertFalse(os.get_blocking(self.descriptor))
        writer.close()
        self.assertEqual(2000, self.read_to_end().count(LINE))

    def test_long_line(self) -> None:
        """A line that is longer than a piece is written whole."""
        writer = BackgroundWriter(self.descriptor)
        writer.write(LINE)
        writer.write(b"y" * 20000 + b"\n")
        writer.close()
        self.assertEqual(LINE + b"y" * 20000 + b"\n", self.read_to_end())

    def test_reader_that_has_gone(self) -> None:
        """A broken pipe costs lines, each of which is counted, and nothing else."""
        reader, descriptor = os.pipe()
        os.close(reader)
        writer = BackgroundWriter(descriptor)
        for _ in range(100):
            writer.write(LINE)
        writer.drain(10)
        self.assertEqual((100, "Broken pipe"), (writer.dropped, writer.error))
        writer.close()
        os.close(self.descriptor)


class Streams(PipeTestCase):
    def test_observer(self) -> None:
        """Twisted's text observer writes to it; what is dropped is reported."""
        reported: list[int] = []
        writer = BackgroundWriter(self.descriptor, max_bytes=1000)
        observed: Any = LogStream(writer, reported.append)
        log = Logger(observer=LogPublisher(textFileLogObserver(observed)))
        for _ in range(10000):
            log.info("a line with \u00fc")
        self.assertEqual(writer.dropped, sum(reported))
        self.assertGreater(sum(reported), 0)
        writer.close()
        self.assertIn("a line with \u00fc\n".encode(), self.read_to_end())

    def test_finish(self) -> None:
        """At the end lines are waited for: the process ends without another word to the thread."""
        stream = LogStream(BackgroundWriter(self.descriptor), self.fail)
        stream.write("a\n")
        stream.finish()
        stream.write("b\n")
        self.assertEqual(b"a\nb\n", os.read(self.reader, 100))
        os.close(self.descriptor)

    def test_finish_without_a_reader(self) -> None:
        """For a second at the most, and for all of them together."""
        stream = LogStream(BackgroundWriter(self.descriptor), lambda _: None)
        for _ in range(2000):
            stream.write(LINE.decode())
        before = time.monotonic()
        stream.finish()
        for _ in range(5):
            stream.write("b\n")
        self.assertTrue(0.9 < time.monotonic() - before < 5)
        self.read_some()
        os.close(self.descriptor)

    def read_some(self) -> None:
        """So that the thread ends its write."""
        left = 200000
        while left > 0:
            left -= len(os.read(self.reader, 65536))


class Redirected(PipeTestCase):
    """The log of the program above, which writes to standard output."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(os.close, self.descriptor)
        self.reactor = MemoryReactorClock()
        self.patch(sys, "stdout", object())
        self.before = sys.stdout

    def unblock(self, above: dict[str, Any] | None, *, blocks: bool = True) -> None:
        module = sys.modules[unblock_log.__module__]
        self.patch(module, "_STANDARD_OUTPUT", self.descriptor if blocks else self.regular())
        unblock_log(above, self.reactor, self.fail)

    def regular(self) -> int:
        file = os.open(self.mktemp(), os.O_WRONLY | os.O_CREAT, 0o600)
        self.addCleanup(os.close, file)
        return file

    def test_twistd(self) -> None:
        """``twistd -n`` takes the standard output that it finds when it begins to log."""
        self.unblock({"nodaemon": True})
        self.assertIsInstance(sys.stdout, LogStream)
        self.assertEqual(["shutdown"], [*self.reactor.triggers["after"]])

    def test_twist(self) -> None:
        """``twist`` has it among its options."""
        options = {"logFile": sys.stdout}
        self.unblock(options)
        self.assertIsInstance(options["logFile"], LogStream)
        self.assertIs(self.before, sys.stdout)

    def test_others(self) -> None:
        """A daemon, another log file, an own application, and a file as output are left alone."""
        for above, blocks in (
            ({"nodaemon": False}, True),
            ({"logFile": "another"}, True),
            (None, True),
            ({"nodaemon": True}, False),
        ):
            self.unblock(above, blocks=blocks)
            self.assertIs(self.before, sys.stdout)
        self.assertEqual({}, self.reactor.triggers)
