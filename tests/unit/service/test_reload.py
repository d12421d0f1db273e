"""Tests of :mod:`x509proxy.service.reload`: read, check and swap, and the watched files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, eventAsText
from twisted.trial.unittest import SynchronousTestCase

from tests.support.services import ProxyFiles, parse_options
from x509proxy.config.credentials import CredentialCopies
from x509proxy.config.loader import Configuration
from x509proxy.service.reload import FileWatcher, Reload, Reloader
from x509proxy.settings import ClientAuth, ListenerSettings, SettingsError


class ReloadingTests(SynchronousTestCase):
    def setUp(self) -> None:
        options = parse_options(
            *ProxyFiles(self.mktemp()).arguments("--backend", "http://192.0.2.1")
        )
        assert options.configuration is not None
        self.first = options.configuration
        self.used: list[Configuration] = []
        self.observed: list[Reload] = []

    def reload(
        self, read: Callable[[], Configuration], use: Callable[[Configuration], None] | None = None
    ) -> Reloader:
        reloading = Reloader(self.first, read, use or self.used.append, lambda: 7.0)
        self.assertIsNone(reloading.last)
        reloading.observe = self.observed.append
        with capturedLogs() as self.events:
            reloading.reload()
        self.assertEqual([reloading.last], self.observed)
        return reloading

    def changed(self, **changes: object) -> Configuration:
        return attrs.evolve(
            self.first, settings=msgspec.structs.replace(self.first.settings, **changes)
        )

    def refuse(self, *_: object) -> Configuration:
        raise SettingsError("certificate: server.pem: found nothing")

    def test_used(self) -> None:
        """A valid configuration is used, and its warnings are in the log."""
        found = self.changed(preset="none")
        reloading = self.reload(lambda: found)
        self.assertEqual(([found], Reload(7.0)), (self.used, reloading.last))
        self.assertIs(found, reloading.configuration)
        levels = [event["log_level"].name for event in self.events]
        self.assertEqual(["warn", "info"], levels)
        self.assertIn("neither https nor this host", self.events[0]["sentence"])
        assert reloading.last is not None
        self.assertTrue(reloading.last.ok)

    def test_not_read(self) -> None:
        """An invalid file changes nothing. The reason is logged and kept."""
        reloading = self.reload(self.refuse)
        self.assertEqual(
            ([], Reload(7.0, "certificate: server.pem: found nothing")), (self.used, reloading.last)
        )
        self.assertIs(self.first, reloading.configuration)
        [event] = self.events
        self.assertEqual(
            (LogLevel.error, "certificate: server.pem: found nothing"),
            (event["log_level"], event["error"]),
        )
        assert reloading.last is not None
        self.assertFalse(reloading.last.ok)

    def test_not_used(self) -> None:
        """A configuration that cannot be used changes nothing either."""
        reloading = self.reload(lambda: self.changed(preset="none"), self.refuse)  # type: ignore[arg-type]
        self.assertIs(self.first, reloading.configuration)
        self.assertEqual(Reload(7.0, "certificate: server.pem: found nothing"), reloading.last)

    def test_never_thought_of(self) -> None:
        """An unexpected error ends no process.

        Its text may contain secrets and is not kept.
        """

        def broken() -> Configuration:
            raise ZeroDivisionError("secret")

        reloading = self.reload(broken)
        self.assertEqual(
            Reload(7.0, "found an error of the kind ZeroDivisionError"), reloading.last
        )
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def deferred(self) -> Reloader:
        """Return a reloader with workers that have not reported yet."""
        self.reports: list[Deferred[None]] = []
        self.read: list[Configuration] = []

        def read() -> Configuration:
            self.read.append(self.changed(preset="none"))
            return self.read[-1]

        def use(_: Configuration) -> Deferred[None]:
            self.reports.append(Deferred())
            return self.reports[-1]

        reloading = Reloader(self.first, read, use, lambda: 7.0)
        reloading.observe = self.observed.append
        return reloading

    def test_reported_later(self) -> None:
        """With workers, one result is recorded, after all of them have reported."""
        reloading = self.deferred()
        reloading.reload()
        self.assertEqual(
            (True, None, [], self.first),
            (reloading.is_running, reloading.last, self.observed, reloading.configuration),
        )
        self.reports[0].callback(None)
        self.assertEqual((False, [Reload(7.0)]), (reloading.is_running, self.observed))
        self.assertIs(self.read[0], reloading.configuration)

    def test_failed_later(self) -> None:
        """A worker that cannot use the configuration fails the reload. The next one can follow."""
        reloading = self.deferred()
        reloading.reload()
        self.reports[0].errback(SettingsError("worker 1: no"))
        self.assertEqual([Reload(7.0, "worker 1: no")], self.observed)
        self.assertIs(self.first, reloading.configuration)
        reloading.reload()
        self.reports[1].callback(None)
        self.assertEqual([Reload(7.0, "worker 1: no"), Reload(7.0)], self.observed)

    def test_sentences(self) -> None:
        """The log states which files serve: with workers, those that did not fail use the new."""
        self.reload(self.refuse)
        self.assertIn("; the old files go on serving", eventAsText(self.events[0]))
        reloading = self.deferred()
        with capturedLogs() as events:
            reloading.reload()
            self.reports[0].errback(SettingsError("worker 2: its process ended"))
        self.assertIn(
            "reload: worker 2: its process ended; other workers use the new files",
            eventAsText(events[0]),
        )
        self.assertEqual("worker 2: its process ended", self.observed[-1].error)

    def test_meanwhile(self) -> None:
        """Requests during a reload cause one more reload, with the files of that time."""
        reloading = self.deferred()
        for _ in range(4):
            reloading.reload()
        self.assertEqual((1, 1), (len(self.read), len(self.reports)))
        self.reports[0].callback(None)
        self.assertEqual((2, 2, 1), (len(self.read), len(self.reports), len(self.observed)))
        self.reports[1].callback(None)
        self.assertEqual((2, 2, False), (len(self.read), len(self.observed), reloading.is_running))

    def test_needs_a_restart(self) -> None:
        """A change to settings that need a restart is an error, and no other change is used."""
        place = ListenerSettings(endpoint="tcp:1")
        for changes, names in (
            ({"listen": ("tcp:1",)}, "listen"),
            ({"listeners": (place,)}, "listeners"),
            ({"workers": 3}, "workers"),
            ({"access_log": "/tmp/other"}, "access-log"),  # noqa: S108 - nothing is written
            ({"workers": 3, "listen": ("tcp:1",), "preset": "none"}, "listen and workers"),
        ):
            self.observed.clear()
            reloading = self.reload(lambda changes=changes: self.changed(**changes))  # type: ignore[misc]
            sentence = (
                f"{names}: found a change that needs a restart; nothing of what is new is used"
            )
            self.assertEqual(([], Reload(7.0, sentence)), (self.used, reloading.last))

    def test_copies_of_the_start(self) -> None:
        """The result has a note on credentials of systemd that may be outdated."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        (folder / "crl").write_text("")
        environment = patch.dict(os.environ, {"CREDENTIALS_DIRECTORY": str(folder)})
        environment.start()
        self.addCleanup(environment.stop)
        self.first = self.changed(crl=(str(folder / "crl"),))
        reloading = self.reload(lambda: self.first)
        sentence = (
            "crl[0]: restart needed if changed, since systemd copies credentials at the start only"
        )
        self.assertEqual(Reload(7.0, note=sentence), reloading.last)
        self.assertIn(sentence, [event.get("sentence") for event in self.events])
        levels = [event["log_level"].name for event in self.events]
        self.assertEqual("info", levels[-1])

    def test_changed_original(self) -> None:
        """A changed original of a copy makes the reload fail; no change is used."""
        reloading = Reloader(self.first, lambda: self.first, self.used.append, lambda: 7.0)
        error = SettingsError("crl[0]: found a change that needs a restart")
        with patch.object(CredentialCopies, "since", side_effect=error):
            reloading.reload()
        self.assertEqual(([], Reload(7.0, str(error))), (self.used, reloading.last))

    def test_what_a_listener_asks_for(self) -> None:
        """A new client-certificate mode of a listener needs no restart: its address is the same."""
        self.first = self.changed(
            listeners=(ListenerSettings(endpoint="tcp:1", client_certificate=ClientAuth.NONE),)
        )
        found = self.changed(listeners=(ListenerSettings(endpoint="tcp:1"),))
        self.reload(lambda: found)
        self.assertEqual([found], self.used)


class WatchingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "server.pem"
        self.path.write_bytes(b"one")
        self.clock = Clock()
        self.calls = 0
        self.watching = FileWatcher(self.clock, self.change)
        self.watching.use([str(self.path)], 5.0)

    def change(self) -> None:
        self.calls += 1

    def expect(self, calls: int, seconds: float = 10.0) -> None:
        self.clock.pump([5.0] * int(seconds / 5.0))
        self.assertEqual(calls, self.calls)

    def test_content(self) -> None:
        """A rewritten file is reported once."""
        self.expect(0)
        self.path.write_bytes(b"three")
        self.expect(1)
        self.expect(1, 60.0)

    def test_replaced(self) -> None:
        """A replaced file is reported, even with the same size and time."""
        status = self.path.stat()
        other = self.folder / "other"
        other.write_bytes(b"two")
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        other.rename(self.path)
        self.expect(1)

    def test_link(self) -> None:
        """A link with a new target is reported, as certbot changes it."""
        link = self.folder / "live.pem"
        link.symlink_to("server.pem")
        self.watching.use([str(link)], 5.0)
        self.expect(0)
        (self.folder / "server2.pem").write_bytes(b"two")
        link.unlink()
        link.symlink_to("server2.pem")
        self.expect(1)

    def test_gone(self) -> None:
        """A removed file is a change, and so is its return."""
        self.path.unlink()
        self.expect(1)
        self.path.write_bytes(b"back")
        self.expect(2)

    def test_half_written(self) -> None:
        """A file that changes between two checks is not read until it is stable."""
        for size in range(5):
            self.path.write_bytes(b"x" * (10 + size))
            self.expect(0, 5.0)
        self.expect(1, 5.0)

    def test_never(self) -> None:
        """Without an interval, files are not checked."""
        self.watching.use([str(self.path)], None)
        self.path.write_bytes(b"three")
        self.expect(0, 100.0)
        self.assertEqual([], self.clock.getDelayedCalls())
        self.watching.stop()

    def test_more_files(self) -> None:
        """The state of a file is kept when other files are added, so that no change is missed."""
        self.path.write_bytes(b"three")
        other = self.folder / "other"
        self.watching.use([str(self.path), str(other)], 5.0)
        self.expect(1)
        other.write_bytes(b"new")
        self.expect(2)

    def test_stop(self) -> None:
        """After the stop, files are not checked."""
        self.watching.stop()
        self.path.write_bytes(b"three")
        self.expect(0)
