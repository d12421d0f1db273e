"""Reloads: everything is read and checked again and then used, or one sentence reports why not.

Facts
-----
* Files are replaced one after the other: between a new certificate and its key there is a moment
  when they do not fit. So a change counts when a second look finds it as the first did.
* certbot makes its links in ``live/`` point to other files, lego writes a file anew. Device, inode,
  size and time of the file that a name leads to, together, detect both.
* With workers a reload ends when all of them have reported. It counts once.
* systemd copies the credentials of a unit at the start only. A reload that finds their originals
  changed fails. One that cannot look at the originals reports that it read the old copies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from x509proxy.config.credentials import CredentialCopies
from x509proxy.config.file_paths import Stamp, stamp
from x509proxy.config.loader import Configuration
from x509proxy.settings import Change, ProxySettings, Settings, SettingsError, keys

__all__ = ["FileWatcher", "Reload", "Reloader"]


@attrs.frozen
class Reload:
    """The result of a reload.

    ``time``: seconds since the epoch; ``error``: the reason for its failure, or ``""``.
    ``note``: a sentence about files that may have changed, and that only a restart reads again.
    """

    time: float
    error: str = ""
    note: str = ""

    @property
    def ok(self) -> bool:
        """Return whether the new files are used."""
        return not self.error


class _PartlyUsedError(SettingsError):
    """The reason why some worker does not use a configuration, which all of them were sent."""


def _partly(failure: Failure) -> None:
    failure.trap(SettingsError)
    error: Any = failure.value
    raise _PartlyUsedError(*error.sentences) from None


_Used = tuple[Configuration, CredentialCopies, str]


class Reloader:
    """The configuration that is in use, and the way to the next one.

    ``read``: reads and checks everything; ``use``: serves by it, and may return a Deferred that
    fires when all workers do. Where either fails, the old configuration stays.
    ``last``: the result of the last reload; ``observe`` is called with each result.
    ``is_running``: true while a reload has no result yet.
    """

    _log = Logger()

    def __init__(
        self,
        configuration: Configuration,
        read: Callable[[], Configuration],
        use: Callable[[Configuration], Deferred[None] | None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.configuration = configuration
        self.last: Reload | None = None
        self.observe: Callable[[Reload], None] = lambda _: None
        self.is_running = False
        self._is_requested = False
        self._read = read
        self._use = use
        self._now = now
        self._copies = CredentialCopies.of(configuration.settings)

    def reload(self) -> None:
        """Read all files again, check all, then swap; a broken file changes nothing.

        Calls during a reload cause a single one after it.
        """
        self._is_requested = True
        if not self.is_running:
            self._begin()

    def _begin(self) -> None:
        self._is_requested, self.is_running = False, True
        maybeDeferred(self._swap).addCallbacks(self._used, self._failed)

    def _swap(self) -> Deferred[_Used]:
        found = self._read()
        _check_fixed(self.configuration.settings, found.settings)
        copies, note = CredentialCopies.of(found.settings).since(self._copies)
        used = self._use(found)
        waited = succeed(None) if used is None else used.addErrback(_partly)
        return waited.addCallback(lambda _: (found, copies, note))

    def _failed(self, failure: Failure) -> None:
        if failure.check(SettingsError):
            sentence = str(failure.value)
        else:
            # The text of an unexpected error may hold anything, so its kind has to do.
            self._log.failure("reload: an unexpected error", failure)
            sentence = f"found an error of the kind {type(failure.value).__name__}"
        is_partly = failure.check(_PartlyUsedError) is not None
        rest = "other workers use the new files" if is_partly else "the old files go on serving"
        self._log.error("reload: {error}; {rest}", error=sentence, rest=rest)
        self._end(Reload(self._now(), sentence))

    def _used(self, used: _Used) -> None:
        self.configuration, self._copies, note = used
        for sentence in (*self.configuration.warnings, *filter(None, [note])):
            self._log.warn("reload: {sentence}", sentence=sentence)
        self._log.info("reload: the files are used as they are now")
        self._end(Reload(self._now(), note=note))

    def _end(self, reload: Reload) -> None:
        self.last = reload
        self.is_running = False
        self.observe(reload)
        if self._is_requested:
            self._begin()


def _check_fixed(old: ProxySettings, new: ProxySettings) -> None:
    before, after = _fixed(old), _fixed(new)
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        names = " and ".join(changed)
        raise SettingsError(
            f"{names}: found a change that needs a restart; nothing of what is new is used"
        )


def _fixed(settings: Settings) -> dict[str, object]:
    """Return the values of keys whose change needs a restart."""
    return {
        name: _fixed_part(getattr(settings, field.field))
        for name, field in keys(type(settings)).items()
        if field.key.change is Change.RESTART
    }


def _fixed_part(value: object) -> object:
    match value:
        case Settings():
            return _fixed(value)
        case tuple():
            return [_fixed_part(member) for member in value]
    return value


class FileWatcher:
    """A poll of files every few seconds, which calls ``changed`` when one of them has changed."""

    def __init__(self, clock: Any, changed: Callable[[], None]) -> None:
        self._clock = clock
        self._changed = changed
        self._call: IDelayedCall | None = None
        self._seconds = 0.0
        self._used: dict[str, Stamp | None] = {}
        self._before: dict[str, Stamp | None] = {}

    def use(self, files: Iterable[str], seconds: float | None) -> None:
        """Poll these files from now on, or none; the state of a file polled already is kept."""
        self.stop()
        if seconds is not None:
            self._used = {
                path: self._used[path] if path in self._used else stamp(path) for path in files
            }
            self._before, self._seconds = self._used, seconds
            self._call = self._clock.callLater(seconds, self._look)

    def stop(self) -> None:
        """Stop polling."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        self._call = self._clock.callLater(self._seconds, self._look)
        found = {path: stamp(path) for path in self._used}
        settled = found == self._before
        self._before = found
        if settled and found != self._used:
            self._used = found
            self._changed()
