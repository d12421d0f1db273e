"""Tests of :mod:`x509proxy.service.journal`."""

from __future__ import annotations

import io
import os
import sys

from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from x509proxy.service.journal import JournalObserver, observer, prefix


class Lines(SynchronousTestCase):
    def setUp(self) -> None:
        self.stream = io.StringIO()
        self.log = Logger(observer=LogPublisher(JournalObserver(self.stream)))

    def test_priorities(self) -> None:
        """Each line has its level's priority, and neither a time nor a namespace."""
        for level in LogLevel.iterconstants():
            self.log.emit(level, "a {word}", word="line")
        expected = "<7>a line\n<6>a line\n<4>a line\n<3>a line\n<2>a line\n"
        self.assertEqual(expected, self.stream.getvalue())

    def test_several_lines(self) -> None:
        """No line of an event is without its priority, nor has one that a client has chosen."""
        self.log.emit(LogLevel.warn, "found {text}", text="a\n<0>b\r<0>c")
        self.assertEqual("<4>found a\n<4><0>b\n<4><0>c\n", self.stream.getvalue())

    def test_failure(self) -> None:
        """A traceback is logged whole, with the priority of a critical event."""
        try:
            raise ValueError("wrong")
        except ValueError:
            self.log.failure("a test")
        lines = self.stream.getvalue().splitlines()
        self.assertEqual("<2>a test", lines[0])
        self.assertTrue(lines[-1].endswith("ValueError: wrong"), lines[-1])
        self.assertEqual({"<2>"}, {line[:3] for line in lines})

    def test_observer(self) -> None:
        """``--logger`` takes the function for a factory of an observer, for standard output."""
        self.patch(sys, "stdout", self.stream)
        found = observer()
        verifyObject(ILogObserver, found)
        Logger(observer=found).info("a line")
        self.assertEqual("<6>a line\n", self.stream.getvalue())


class Prefixes(SynchronousTestCase):
    def prefix(self, stream: str | None) -> str:
        """Return the prefix with this value of the variable."""
        environment = {} if stream is None else {"JOURNAL_STREAM": stream}
        self.patch(os, "environ", environment)
        return prefix(LogLevel.warn)

    def test_journal(self) -> None:
        """Lines on standard error have a priority if that is the journal, and only then."""
        status = os.fstat(2)
        own = f"{status.st_dev}:{status.st_ino}"
        self.assertEqual("<4>", self.prefix(own))
        for other in (None, "", "1:2", f"{own}0"):
            self.assertEqual("", self.prefix(other))

    def test_closed(self) -> None:
        """Without a standard error there is no prefix."""

        def closed(_: int) -> os.stat_result:
            raise OSError

        self.patch(os, "fstat", closed)
        self.assertEqual("", self.prefix("1:2"))
