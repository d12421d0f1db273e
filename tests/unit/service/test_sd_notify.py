"""Tests of :mod:`x509proxy.service.sd_notify`: notifications over real datagrams."""

from __future__ import annotations

import os
import time
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.notify_socket import NotifySocket
from x509proxy.service.sd_notify import Notifier


class NotifyTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.ear = NotifySocket()
        self.addCleanup(self.ear.close)
        self.notifier = Notifier(self.ear.name, 10.0)


class Words(NotifyTestCase):
    def test_ready(self) -> None:
        """It is ready, which process it is, and a sentence on one line."""
        self.notifier.ready("serving\nREADY=0")
        self.assertEqual(
            [{"READY": "1", "MAINPID": str(os.getpid()), "STATUS": "serving READY=0"}],
            self.ear.heard(),
        )

    def test_reloading(self) -> None:
        """A reload has its monotonic time in microseconds, or systemd takes it for an old one."""
        before = time.monotonic() * 1e6
        self.notifier.reloading()
        [said] = self.ear.heard()
        self.assertEqual("1", said["RELOADING"])
        self.assertTrue(before - 1 <= int(said["MONOTONIC_USEC"]) <= time.monotonic() * 1e6 + 1)

    def test_stopping(self) -> None:
        """It stops."""
        self.notifier.stopping("finishing requests in progress")
        self.assertEqual(
            [{"STOPPING": "1", "STATUS": "finishing requests in progress"}], self.ear.heard()
        )

    def test_path(self) -> None:
        """A socket with a path is spoken to as well as an abstract one."""
        folder = Path(self.mktemp())
        folder.mkdir()
        # A path below trial's own folder may be longer than a socket's may be.
        here = os.open(folder, os.O_RDONLY)
        self.addCleanup(os.close, here)
        ear = NotifySocket(f"/proc/self/fd/{here}/notify")
        self.addCleanup(ear.close)
        Notifier(ear.name).ready()
        self.assertEqual(["1"], [said["READY"] for said in ear.heard()])

    def test_nobody(self) -> None:
        """Without a receiver nothing happens, and nothing is sent without a socket."""
        self.ear.close()
        for notifier in (self.notifier, Notifier()):
            notifier.ready()
            notifier.reloading()
            notifier.stopping()


class Life(NotifyTestCase):
    def test_half(self) -> None:
        """It reports life at once, and after each half of the given time, until its end."""
        clock = Clock()
        self.notifier.keep_alive(clock)
        self.assertEqual([{"WATCHDOG": "1"}], self.ear.heard())
        clock.advance(4.9)
        self.assertEqual([], self.ear.heard())
        clock.pump([0.2, 5.0])
        self.assertEqual([{"WATCHDOG": "1"}] * 2, self.ear.heard())
        self.notifier.end()
        self.assertEqual([], clock.getDelayedCalls())
        self.notifier.end()

    def test_not_asked_for(self) -> None:
        """Without a watchdog there is no such report."""
        clock = Clock()
        for notifier in (Notifier(self.ear.name), Notifier(None, 10.0)):
            notifier.keep_alive(clock)
        self.assertEqual(([], []), (self.ear.heard(), clock.getDelayedCalls()))


class Environment(NotifyTestCase):
    def read(self, **variables: str) -> Notifier:
        self.environment = {"HOME": "/", **variables}
        return Notifier.from_environment(self.environment)

    def test_taken_out(self) -> None:
        """Variables of systemd are used, and removed for child processes."""
        notifier = self.read(
            NOTIFY_SOCKET=self.ear.name, WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid())
        )
        notifier.ready()
        self.assertEqual((30.0, 1), (notifier.watchdog, len(self.ear.heard())))
        self.assertEqual({"HOME": "/"}, self.environment)

    def test_without(self) -> None:
        """Without systemd nothing is sent."""
        notifier = self.read()
        notifier.ready()
        self.assertEqual((0.0, []), (notifier.watchdog, self.ear.heard()))

    def test_another_process(self) -> None:
        """A watchdog of another process is ignored; one without a process is this one's."""
        self.assertEqual(0.0, self.read(WATCHDOG_USEC="1000000", WATCHDOG_PID="1").watchdog)
        self.assertEqual(1.0, self.read(WATCHDOG_USEC="1000000").watchdog)

    def test_nonsense(self) -> None:
        """A time that is none is no watchdog."""
        self.assertEqual(0.0, self.read(WATCHDOG_USEC="soon").watchdog)
