"""A reactor in memory that starts processes and listens on ports, for the parent of workers."""

from __future__ import annotations

import errno
import signal
import socket
from typing import Any

import attrs
import msgspec
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from x509proxy.service.ipc import (
    Frames,
    decode_parent_message,
    frame,
)
from x509proxy.service.supervisor import FROM_PARENT, TO_PARENT


@attrs.define(eq=False)
class FakeProcess:
    """A fake process."""

    pid: int
    protocol: Any
    arguments: list[str]
    environment: dict[str, str]
    numbers: dict[int, Any]
    written: bytearray = attrs.Factory(bytearray)
    closed: bool = False
    signals: list[int] = attrs.Factory(list)
    deaf_to: set[int] = attrs.Factory(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    def writeToChild(self, number: int, data: bytes) -> None:
        assert number == FROM_PARENT and not self.closed
        self.written += data

    def closeChildFD(self, number: int) -> None:
        assert number == FROM_PARENT
        self.closed = True

    def signalProcess(self, number: int) -> None:
        if self.signals:
            raise ProcessExitedAlready
        self.signals.append(number)

    def ends(self, code: int | None = None, by: int | None = None) -> None:
        reason = ProcessDone(0) if code == 0 else ProcessTerminated(code, by)
        self.protocol.childConnectionLost(FROM_PARENT)
        self.protocol.childConnectionLost(TO_PARENT)
        self.protocol.processEnded(Failure(reason))

    def sends(self, message: dict[str, Any]) -> None:
        self.protocol.childDataReceived(TO_PARENT, frame(msgspec.json.encode(message)))

    @property
    def received(self) -> list[Any]:
        return [decode_parent_message(content) for content in Frames().feed(bytes(self.written))]


class FakePort:
    """A port that counts as bound, without a socket."""

    addressFamily = socket.AF_INET

    def __init__(self, number: int, factory: Any = None) -> None:
        self.number = number
        self.factory = factory
        self.reading = self.listening = True
        self.shut_down = False
        self.socket = self
        self.numberAccepts = 100
        self.accepts: list[int] = []

    def getHost(self) -> int:
        return self.number

    def fileno(self) -> int:
        return 100 + self.number

    def startReading(self) -> None:
        self.reading = True

    def stopReading(self) -> None:
        self.reading = False

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_RDWR
        self.shut_down = True

    def doRead(self) -> None:
        self.accepts.append(self.numberAccepts)
        self.numberAccepts += 20

    def stopListening(self) -> None:
        self.listening = False


class ParentReactor(MemoryReactorClock):
    """A reactor that spawns no processes and binds no ports.

    ``refusals``: the number of processes that cannot start for lack of memory.
    """

    refusals = 0

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.processes: list[FakeProcess] = []
        self.ports: list[FakePort] = []

    def spawnProcess(
        self, protocol: Any, executable: str, args: Any, env: Any, childFDs: Any
    ) -> FakeProcess:
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        process = FakeProcess(1000 + len(self.processes), protocol, args, env, childFDs)
        self.processes.append(process)
        protocol.makeConnection(process)
        return process

    def listenTCP(self, port: int, factory: Any, *_: Any, **__: Any) -> Any:
        self.ports.append(FakePort(port, factory))
        return self.ports[-1]

    def adoptStreamPort(self, number: int, family: int, factory: Any) -> Any:
        self.ports.append(FakePort(number))
        return self.ports[-1]
