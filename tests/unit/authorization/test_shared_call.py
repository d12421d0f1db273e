"""Tests of :mod:`x509proxy.authorization.shared_call`."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.authorization.shared_call import SharedCall


class Sharing(SynchronousTestCase):
    def setUp(self) -> None:
        self.begun: list[Deferred[int]] = []
        self.cancelled = 0
        self.call: SharedCall[int] = SharedCall(self.begin)

    def begin(self) -> Deferred[int]:
        self.begun.append(Deferred(self.cancel))
        return self.begun[-1]

    def cancel(self, _: object) -> None:
        self.cancelled += 1

    def test_one_for_all(self) -> None:
        """Concurrent callers get the result of one call; the next caller starts another."""
        first, second = self.call.join(), self.call.join()
        self.begun[0].callback(1)
        self.assertEqual([1, 1], [self.successResultOf(one) for one in (first, second)])
        third = self.call.join()
        self.begun[1].callback(2)
        self.assertEqual(2, self.successResultOf(third))

    def test_wanted(self) -> None:
        """A call is wanted as long as a caller waits for it."""
        self.assertFalse(self.call.is_wanted)
        waiting = self.call.join()
        self.assertTrue(self.call.is_wanted)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertFalse(self.call.is_wanted)

    def test_failure(self) -> None:
        """All callers get the failure of the call."""
        waiting = [self.call.join() for _ in range(3)]
        self.begun[0].errback(ZeroDivisionError())
        for one in waiting:
            self.failureResultOf(one, ZeroDivisionError)

    def test_leaving(self) -> None:
        """A caller that leaves affects no other; the departure of the last cancels the call."""
        first, second = self.call.join(), self.call.join()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(0, self.cancelled)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertEqual(1, self.cancelled)
        third = self.call.join()
        self.begun[1].callback(3)
        self.assertEqual(3, self.successResultOf(third))

    def test_end_of_another(self) -> None:
        """The end of one caller may cancel another."""
        first, second = self.call.join(), self.call.join()
        first.addCallback(lambda _: second.cancel())
        self.begun[0].callback(1)
        self.failureResultOf(second, CancelledError)
        self.assertEqual(0, self.cancelled)

    def test_at_once(self) -> None:
        """A call may end before its first caller waits for it."""
        call: SharedCall[int] = SharedCall(lambda: succeed(1))
        for _ in range(2):
            self.assertEqual(1, self.successResultOf(call.join()))
