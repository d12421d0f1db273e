"""To read everything again and use it, or to say in one sentence why not; and to notice that there is something to read.

Facts
-----
* Files are replaced one after the other: between a new certificate and its key there is a moment when they do not fit. So a
  change counts when a second look finds it as the first did.
* certbot makes its links in ``live/`` point to other files, lego writes a file anew: device, inode, size and time of what a name
  leads to, together, tell both.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from x509proxy.config.loader import Configuration
from x509proxy.settings import Change, ProxySettings, Settings, SettingsError, keys

__all__ = ["FileWatcher", "Reload", "Reloader"]


@attrs.frozen
class Reload:
    """How a reload went. ``time``: seconds since the epoch; ``error``: the sentence that says why the old one goes on serving."""

    time: float
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error


class Reloader:
    """The configuration of the day. ``read``: reads and checks everything; ``use``: serves by it.

    Both raise SettingsError, and then nothing has changed. ``last``: how the last one went; ``observe`` is called with each.
    """

    _log = Logger()

    def __init__(
        self,
        configuration: Configuration,
        read: Callable[[], Configuration],
        use: Callable[[Configuration], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.configuration = configuration
        self.last: Reload | None = None
        self.observe: Callable[[Reload], None] = lambda _: None
        self._read = read
        self._use = use
        self._now = now

    def reload(self) -> None:
        """Read all files again, check all, then swap; a broken file changes nothing."""
        try:
            found = self._read()
            _check_fixed(self.configuration.settings, found.settings)
            self._use(found)
        except SettingsError as error:
            self.failed(str(error))
        except Exception as error:
            # A sentence of somebody else's may hold anything: its kind will do.
            self._log.failure("reload: found what nobody has thought of")
            self.failed(f"found an error of the kind {type(error).__name__}")
        else:
            self._used(found)

    def failed(self, sentence: str) -> None:
        """It could not be used, and this is why."""
        self._log.error("reload: {error}; the old files go on serving", error=sentence)
        self._end(Reload(self._now(), sentence))

    def _used(self, found: Configuration) -> None:
        self.configuration = found
        for warning in found.warnings:
            self._log.warn("reload: {sentence}", sentence=warning)
        self._log.info("reload: the files are used as they are now")
        self._end(Reload(self._now()))

    def _end(self, reload: Reload) -> None:
        self.last = reload
        self.observe(reload)


def _check_fixed(old: ProxySettings, new: ProxySettings) -> None:
    before, after = _fixed(old), _fixed(new)
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        names = " and ".join(changed)
        raise SettingsError(
            f"{names}: found a change that needs a restart; nothing of what is new is used"
        )


def _fixed(settings: Settings) -> dict[str, object]:
    """Return the values that are bound, opened or started with rights that are gone by now."""
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


_Stamp = tuple[int, int, int, int] | None


class FileWatcher:
    """Looks at files every few seconds, and calls ``changed`` when one of them is another than before."""

    def __init__(self, clock: Any, changed: Callable[[], None]) -> None:
        self._clock = clock
        self._changed = changed
        self._call: IDelayedCall | None = None
        self._seconds = 0.0
        self._used: dict[str, _Stamp] = {}
        self._before: dict[str, _Stamp] = {}

    def use(self, files: Iterable[str], seconds: float | None) -> None:
        """Look at these from now on, so often, or never. What is known of a file already stays known."""
        self.stop()
        if seconds is not None:
            self._used = {
                path: self._used[path] if path in self._used else _stamp(path) for path in files
            }
            self._before, self._seconds = self._used, seconds
            self._call = self._clock.callLater(seconds, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        self._call = self._clock.callLater(self._seconds, self._look)
        found = {path: _stamp(path) for path in self._used}
        settled = found == self._before
        self._before = found
        if settled and found != self._used:
            self._used = found
            self._changed()


def _stamp(path: str) -> _Stamp:
    try:
        status = os.stat(path)  # noqa: PTH116 - one call, many times
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
