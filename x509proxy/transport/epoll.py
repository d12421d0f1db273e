"""The proxy's sockets, in an epoll of their own within the reactor's: whatever is ready is served in one turn of the reactor.

Facts
-----
* An epoll has a descriptor that can itself be waited for (epoll(7)), so this works below every reactor that waits for
  descriptors. Where there is no epoll, the reactor goes on alone.
* For each event Twisted enters a log context, and between two waits it looks through its timers. Here that is done once for a
  batch.
* A descriptor's number is given again as soon as it is closed: an event that was fetched before is for whoever had it then.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableDescriptor, IReactorFDSet, IReadDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.tcp import Connection, Port
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from x509proxy.transport.fast_accept import take_for

__all__ = ["Sockets", "end", "join"]

# Before timers and the reactor's other descriptors get their turn.
_AT_ONCE = 128

_DONE, _LOST = Failure(CONNECTION_DONE), Failure(CONNECTION_LOST)


@implementer(IReadDescriptor)
class Sockets:
    """What a transport takes for its reactor; whatever is asked of it but to watch descriptors, the ``reactor`` is asked."""

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._epoll = select.epoll()
        # By descriptor: who has it, and what it is watched for.
        self._owners: dict[int, Any] = {}
        self._events: dict[int, int] = {}
        # Who has no more to say, and ends as soon as whoever is being served has been.
        self._done: list[Any] = []
        self._serving = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def __repr__(self) -> str:
        return f"<Sockets {[*self._owners.values()]}>"

    # The transports' calls: IReactorFDSet.

    def addReader(self, reader: Any) -> None:
        self._watch(reader, select.EPOLLIN)

    def addWriter(self, writer: Any) -> None:
        self._watch(writer, select.EPOLLOUT)

    def removeReader(self, reader: Any) -> None:
        self._ignore(reader, select.EPOLLIN)

    def removeWriter(self, writer: Any) -> None:
        self._ignore(writer, select.EPOLLOUT)

    # The reactor's calls: IReadDescriptor.

    def fileno(self) -> int:
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        return "x509proxy"

    def doRead(self) -> None:
        left = _AT_ONCE
        while left > 0 and (ready := self._epoll.poll(0, left)):
            left -= len(ready)
            for owner, number, events in [
                (self._owners.get(number), number, events) for number, events in ready
            ]:
                if owner is not None and self._owners.get(number) is owner:
                    self._serving = True
                    self._serve(owner, number, events)
                    self._serving = False
                    while self._done:
                        done = self._done.pop()
                        self._give_up(done, done.connectionLost, _DONE)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has forgotten all that it watched, since it ends."""
        for owner in [*self._owners.values()]:
            self._give_up(owner, owner.connectionLost, reason)

    def end(self, owner: Any) -> bool:
        """End a connection in this turn, if there is one; whether there is. All that was written must have been sent."""
        if self._serving:
            self._done.append(owner)
        return self._serving

    # Inside.

    def _has(self, number: int, owner: Any) -> bool:
        """Whether the descriptor is still that owner's."""
        return self._owners.get(number) is owner

    def _watch(self, owner: Any, event: int) -> None:
        number = owner.fileno()
        before = self._events[number] if self._has(number, owner) else 0
        self._owners[number], self._events[number] = owner, before | event
        if not before:
            # Only while there is something: a reactor with nothing to do is one that tests find clean. And each time: where
            # they do not, they make it so.
            self._reactor.addReader(self)
            self._epoll.register(number, event)
        elif not before & event:
            self._epoll.modify(number, before | event)

    def _ignore(self, owner: Any, event: int) -> None:
        number = owner.fileno()
        if not self._has(number, owner) or not self._events[number] & event:
            return
        self._events[number] -= event
        if self._events[number]:
            self._epoll.modify(number, self._events[number])
            return
        del self._owners[number], self._events[number]
        self._epoll.unregister(number)
        if not self._owners:
            self._reactor.removeReader(self)

    def _serve(self, owner: Any, number: int, events: int) -> None:
        """As :class:`twisted.internet.posixbase._PollLikeMixin` does it: what has come is read before the end is."""
        why: Any = None
        lost = owner.connectionLost
        try:
            if events & select.EPOLLIN:
                why = owner.doRead()
            elif events & (select.EPOLLERR | select.EPOLLHUP):
                why = CONNECTION_DONE if self._events[number] & select.EPOLLIN else CONNECTION_LOST
            if type(why) is ConnectionDone and IHalfCloseableDescriptor.providedBy(owner):
                lost = owner.readConnectionLost
            if not why and events & select.EPOLLOUT and self._has(number, owner):
                why = owner.doWrite()
        except BaseException as error:
            self._log.failure("a socket could not be served")
            why = error
        if why:
            self._give_up(owner, lost, _failure(why))

    def _give_up(self, owner: Any, lost: Callable[[Failure], None], reason: Failure) -> None:
        # The rest is the transports' own: when they are lost they stop reading and writing, and close then.
        self.removeReader(owner)
        try:
            lost(reason)
        except BaseException:
            # Were it to reach the reactor, that would give up all of them.
            self._log.failure("a socket could not be given up")


def _failure(why: BaseException) -> Failure:
    if why is CONNECTION_LOST:
        return _LOST
    return _DONE if type(why) is ConnectionDone else Failure(why)


@lru_cache(maxsize=16)
def _sockets(reactor: Any) -> Sockets:
    return Sockets(reactor)


def end(connection: Any) -> None:
    """``loseConnection`` for a connection of which all has been sent.

    Twisted would send nothing once more when the socket can be written to: two ``epoll_ctl``, a ``send``, and an event.
    """
    sockets = getattr(connection, "reactor", None)
    if not (isinstance(sockets, Sockets) and sockets.end(connection)):
        connection.loseConnection()


def join(descriptor: Any) -> None:
    """Have a port, with whatever it accepts from now on, or a connection served among the others of its reactor."""
    if not (isinstance(descriptor, (Port, Connection)) and hasattr(select, "epoll")):
        return
    moved: Any = descriptor
    if IReactorFDSet.providedBy(moved.reactor):
        moved.stopReading()
        moved.reactor = _sockets(moved.reactor)
        if isinstance(moved, Port):
            take_for(moved)
        moved.startReading()
