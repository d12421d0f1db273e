"""Tests of :mod:`x509proxy.service.access_log`."""

from __future__ import annotations

import errno
import json
import os
import select
import stat
from pathlib import Path
from typing import Any

import attrs
from msgspec import structs
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.support.exchanges import EXCHANGE
from tests.support.memory import HEADER, RULES
from x509proxy.exchange import Exchange, Outcome
from x509proxy.forwarding.header_rules import HeaderRules
from x509proxy.forwarding.presets import PRESETS
from x509proxy.forwarding.secret_name import new_header_name
from x509proxy.monitoring.access_log_format import access_line
from x509proxy.monitoring.counters import Counters
from x509proxy.service.access_log import AccessLog, LogFile, RateLimiter, open_log
from x509proxy.settings import LogFormat, ProxySettings, SettingsError

REFUSED = structs.replace(EXCHANGE, outcome=Outcome.REJECTED, status=400)


@attrs.frozen
class Given:
    """The part of a configuration that a log needs."""

    settings: ProxySettings
    rules: Any = RULES


class FileTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.path = folder / "access.log"

    @property
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()


class Files(FileTestCase):
    def open(self, descriptor: int | None = None) -> LogFile:
        return LogFile(str(self.path), descriptor)

    def test_rights(self) -> None:
        """A new file can be read by its owner alone; an existing one keeps its mode."""
        self.addCleanup(os.umask, os.umask(0))
        self.open().close()
        self.assertEqual(0o600, stat.S_IMODE(self.path.stat().st_mode))
        self.path.chmod(0o640)
        self.open().close()
        self.assertEqual(0o640, stat.S_IMODE(self.path.stat().st_mode))

    def test_one_write(self) -> None:
        """A line and its end are one piece, so that several processes may write into one file."""
        written: list[bytes] = []
        real = os.write

        def write(descriptor: int, data: bytes) -> int:
            written.append(data)
            return real(descriptor, data)

        self.patch(os, "write", write)
        self.open().write("a line")
        self.assertEqual([b"a line\n"], written)

    def test_shared(self) -> None:
        """Two logs of one file write at its end, also with a descriptor that was passed on."""
        one = self.open()
        other = self.open(os.dup(one.fileno()))
        third = self.open()
        for file, word in ((one, "a"), (other, "b"), (third, "c"), (one, "d")):
            file.write(word)
        self.assertEqual(["a", "b", "c", "d"], self.lines)

    def test_reopened(self) -> None:
        """Lines go on into a renamed file until the log is reopened; then into the new one."""
        file = self.open()
        file.write("a")
        self.path.rename(f"{self.path}.1")
        file.write("b")
        file.reopen()
        file.write("c")
        self.assertEqual((["c"], "a\nb\n"), (self.lines, Path(f"{self.path}.1").read_text()))
        self.assertEqual(0o600, stat.S_IMODE(self.path.stat().st_mode))

    def test_descriptors(self) -> None:
        """No descriptor is left open by the way."""
        before = len(list(Path("/proc/self/fd").iterdir()))
        file = self.open()
        file.reopen()
        file.close()
        self.assertEqual(before, len(list(Path("/proc/self/fd").iterdir())))

    def test_not_reopened(self) -> None:
        """Where the new file cannot be opened, the old one goes on."""
        file = self.open()
        moved = self.path.parent.rename(f"{self.path.parent}.moved")
        self.assertRaises(FileNotFoundError, file.reopen)
        file.write("a")
        self.assertEqual("a\n", (moved / self.path.name).read_text())

    def test_standard_output(self) -> None:
        """``-`` is the descriptor of standard output: neither reopened nor closed."""
        file = LogFile("-")
        file.reopen()
        file.close()
        self.assertEqual(1, file.fileno())
        os.fstat(1)

    def test_torn(self) -> None:
        """A line that was written in part counts as dropped, and the next one is complete."""
        real, limit = os.write, [3]
        self.patch(os, "write", lambda descriptor, data: real(descriptor, data[: limit[0]]))
        file = self.open()
        file.write("a line")
        self.assertEqual((1, "a line was written in part"), (file.dropped, file.error))
        limit[0] = 99
        file.write("another")
        file.write("more")
        self.assertEqual(["a l", "another", "more"], self.lines)

    def test_torn_and_reopened(self) -> None:
        """A reopened log begins a new line only in a file that has a part of one."""
        real, limit = os.write, [3]
        self.patch(os, "write", lambda descriptor, data: real(descriptor, data[: limit[0]]))
        file = self.open()
        file.write("a line")
        limit[0] = 99
        file.reopen()
        file.write("another")
        self.assertEqual(["a l", "another"], self.lines)
        limit[0] = 3
        file.write("a third")
        limit[0] = 99
        self.path.rename(f"{self.path}.1")
        file.reopen()
        file.write("a new file")
        self.assertEqual(["a new file"], self.lines)

    def test_pipe(self) -> None:
        """Lines to a FIFO do not wait for its reader; dropped ones are counted."""
        os.mkfifo(self.path)
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        file = self.open()
        for number in range(20000):
            file.write(f"{number:099}")
        self.assertTrue(0 < file.dropped < 10000, file.dropped)
        self.assertEqual("its reader has stopped", file.error)
        # A thread writes: it may not have begun.
        select.select([reader], [], [], 30)
        self.assertEqual(b"0" * 99 + b"\n", os.read(reader, 100))

    def test_pipe_reopened(self) -> None:
        """Lines in a FIFO before it is reopened arrive, and no descriptor stays open."""
        os.mkfifo(self.path)
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        before = len(list(Path("/proc/self/fd").iterdir()))
        file = self.open()
        file.write("a")
        file.reopen()
        file.write("b")
        file.close()
        os.set_blocking(reader, True)
        found = b""
        while piece := os.read(reader, 100):
            found += piece
        self.assertEqual({b"a", b"b"}, {*found.split()})
        self.assertEqual(before, len(list(Path("/proc/self/fd").iterdir())))
        os.close(reader)

    def test_none(self) -> None:
        """No path, no file."""
        self.assertIsNone(open_log(None))

    def test_bad_path(self) -> None:
        """A log that cannot be opened ends the start with one sentence."""
        expected = "expected a file that can be written"
        for path, problem in (
            ("/nowhere/access.log", f"found no folder /nowhere, {expected}"),
            ("/a\0b", f"found NUL in its name, {expected}"),
        ):
            sentence = str(self.assertRaises(SettingsError, open_log, path))
            self.assertTrue(sentence.startswith("access-log: "), sentence)
            self.assertTrue(sentence.endswith(f": {problem}"), sentence)

    def test_no_right(self) -> None:
        """The system's errors have its words."""
        path = self.mktemp()

        def refuse(*_: object) -> int:
            raise OSError(13, "Permission denied")

        self.patch(os, "open", refuse)
        sentence = str(self.assertRaises(SettingsError, open_log, path))
        self.assertEqual(
            f"access-log: {path}: found a file that cannot be opened: Permission denied, "
            "expected one that can be written",
            sentence,
        )


class Rations(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.told: list[int] = []
        self.ration = RateLimiter(2, 1.0, self.clock, self.told.append)

    def test_the_first_ones(self) -> None:
        """The first ones of each second pass; the others are counted and reported once."""
        for _ in range(2):
            self.assertEqual(
                [True, True, False, False, False], [self.ration.take() for _ in range(5)]
            )
            self.clock.advance(1)
        self.assertEqual([3, 3], self.told)

    def test_few(self) -> None:
        """Nothing is reported where nothing was held back, and no timer runs without an event."""
        self.ration.take()
        self.clock.advance(1)
        self.assertEqual(([], []), (self.told, self.clock.getDelayedCalls()))

    def test_end(self) -> None:
        """At the end the pending count is reported at once, and no timer is left."""
        for _ in range(3):
            self.ration.take()
        self.ration.end()
        self.ration.end()
        self.assertEqual(([1], []), (self.told, self.clock.getDelayedCalls()))


class Writing(FileTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()

    def log(self, path: str = "", **settings: Any) -> AccessLog:
        return AccessLog(
            LogFile(path or str(self.path)),
            Given(ProxySettings(**settings)),  # type: ignore[arg-type]
            self.clock,
        )

    def told(
        self, log: AccessLog, *exchanges: Exchange, seconds: float = 1.0
    ) -> list[tuple[str, str]]:
        """Return the service log's lines while these are observed, and so many seconds pass."""
        with capturedLogs() as events:
            for exchange in exchanges:
                log.observe(exchange)
            self.clock.advance(seconds)
        return [(event["log_level"].name, event["log_format"].format(**event)) for event in events]

    def test_text(self) -> None:
        """A line for each exchange, as text by default."""
        self.assertEqual([], self.told(self.log(), EXCHANGE))
        self.assertEqual([access_line(EXCHANGE)], self.lines)

    def test_json(self) -> None:
        """Or as JSON; a reload may change that."""
        log = self.log(log_format=LogFormat.JSON)
        log.observe(EXCHANGE)
        log.use(Given(ProxySettings()))  # type: ignore[arg-type]
        log.observe(EXCHANGE)
        self.assertEqual(
            ("/token", access_line(EXCHANGE)), (json.loads(self.lines[0])["target"], self.lines[1])
        )

    def test_secret(self) -> None:
        """The secret name is in neither, however a client brings it there."""
        for log_format in LogFormat:
            self.log(log_format=log_format).observe(
                structs.replace(EXCHANGE, target="/" + HEADER.decode().lower())
            )
        self.assertNotIn(HEADER.decode().lower(), self.path.read_text().lower())
        self.assertEqual(
            "/...", json.loads(self.lines[1])["target"].replace("sec-client-x509-cert-", "")
        )

    def test_new_secret(self) -> None:
        """After a reload it is the new name that is not written."""
        log, name = self.log(), new_header_name()
        log.use(
            Given(ProxySettings(), HeaderRules.for_preset(PRESETS["connect2id"], name.encode()))  # type: ignore[arg-type]
        )
        log.observe(structs.replace(EXCHANGE, target="/" + name))
        self.assertNotIn(name[-32:], self.path.read_text())

    def test_flood(self) -> None:
        """So many rejected and aborted requests a second are logged, and the others are counted."""
        aborted = structs.replace(REFUSED, outcome=Outcome.ABORTED)
        said = self.told(self.log(max_logged_errors_per_second=3), *[REFUSED, aborted] * 500)
        self.assertEqual(
            [("warn", "access-log: 997 more rejected or aborted requests are not logged")], said
        )
        self.assertEqual(3, len(self.lines))

    def test_answered_in_a_flood(self) -> None:
        """Each completed request is logged, and does not use up the others' number."""
        said = self.told(
            self.log(max_logged_errors_per_second=1),
            *[EXCHANGE] * 60,
            *[REFUSED] * 10,
            *[EXCHANGE] * 60,
        )
        self.assertEqual((1, 121), (len(said), len(self.lines)))

    def test_rate_changes(self) -> None:
        """A reload may change how many those are."""
        log = self.log(max_logged_errors_per_second=1)
        log.use(Given(ProxySettings(max_logged_errors_per_second=4)))  # type: ignore[arg-type]
        self.told(log, *[REFUSED] * 9)
        self.assertEqual(4, len(self.lines))

    def test_forged(self) -> None:
        """The first forged headers of a second are logged without the name, then a number."""
        log = AccessLog(None, Given(ProxySettings()), self.clock)  # type: ignore[arg-type]
        forged = structs.replace(EXCHANGE, forged=2)
        for _ in range(2):
            said = self.told(log, EXCHANGE, *[forged] * 25)
            self.assertEqual([("warn", "2 forged headers from 192.0.2.7 removed")] * 10, said[:10])
            self.assertEqual([("warn", "15 more requests with forged headers")], said[10:])

    def test_forged_later(self) -> None:
        """Nothing is logged while a forged request is served (invariant L4: timing)."""
        log = AccessLog(None, Given(ProxySettings()), self.clock)  # type: ignore[arg-type]
        forged = structs.replace(EXCHANGE, forged=1)
        self.assertEqual([], self.told(log, forged, seconds=0.9))
        self.assertEqual(1, len(self.told(log, seconds=0.1)))

    def test_forged_at_the_end(self) -> None:
        """Events that are pending when the log is closed are logged then."""
        log = AccessLog(None, Given(ProxySettings()), self.clock)  # type: ignore[arg-type]
        log.observe(structs.replace(EXCHANGE, forged=1))
        with capturedLogs() as events:
            log.close()
        self.assertEqual(1, len(events))

    def test_forged_in_a_flood(self) -> None:
        """A flood of refusals does not hide a forged header: each kind has a ration of its own."""
        said = self.told(
            self.log(max_logged_errors_per_second=1),
            *[REFUSED] * 50,
            structs.replace(REFUSED, forged=1),
        )
        self.assertIn(("warn", "1 forged header from 192.0.2.7 removed"), said)

    def test_full_disk(self) -> None:
        """A full disk costs log lines, and one sentence a minute: why, and then how many."""
        log = self.log("/dev/full")
        said = self.told(log, *[EXCHANGE] * 1000, seconds=59)
        self.assertEqual(
            [("error", f"access-log: {os.strerror(errno.ENOSPC)}; the line is lost")], said
        )
        self.assertEqual(
            [("error", "access-log: 999 more lines are lost")], self.told(log, seconds=1)
        )

    def test_counted(self) -> None:
        """Dropped lines are counted for the metrics."""
        counters = Counters()
        log = AccessLog(LogFile("/dev/full"), Given(ProxySettings()), self.clock, counters)  # type: ignore[arg-type]
        self.told(log, *[EXCHANGE] * 3)
        self.assertEqual({"access": 3, "service": 0}, counters.counts().log_lines_dropped)

    def test_reopened(self) -> None:
        """``reopen`` continues in the new file; a log without a file has nothing to open."""
        log = self.log()
        self.path.rename(f"{self.path}.1")
        log.reopen()
        log.observe(EXCHANGE)
        self.assertEqual(1, len(self.lines))
        AccessLog(None, Given(ProxySettings()), self.clock).reopen()  # type: ignore[arg-type]

    def test_not_reopened(self) -> None:
        """If the new file cannot be opened, the log reports it, and the old one stays in use."""
        log = self.log()
        moved = self.path.parent.rename(f"{self.path.parent}.moved")
        with capturedLogs() as events:
            log.reopen()
        [event] = events
        said = event["log_format"].format(**event)
        expected = (
            f"access-log: {self.path} cannot be opened again: "
            "No such file or directory; the old file stays in use"
        )
        self.assertEqual(expected, said)
        log.observe(EXCHANGE)
        self.assertEqual(access_line(EXCHANGE) + "\n", (moved / self.path.name).read_text())

    def test_closed(self) -> None:
        """At the end pending events are logged, and no timer and no later line remains."""
        log = self.log(max_logged_errors_per_second=1)
        with capturedLogs() as events:
            for _ in range(3):
                log.observe(REFUSED)
            log.close()
        self.assertEqual([2], [event["count"] for event in events])
        log.observe(EXCHANGE)
        log.close()
        self.assertEqual((1, []), (len(self.lines), self.clock.getDelayedCalls()))
