"""Tests of :mod:`x509proxy.authorization.token_cache`."""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.authorization.token_cache import TokenCache


@attrs.frozen
class Value:
    expires: float
    size: int = 0
    since: float = 0.0


class Cache(SynchronousTestCase):
    def test_key(self) -> None:
        """A value belongs to its token and certificate, and to no other pair."""
        cache: TokenCache[Value] = TokenCache(9)
        cache.put((b"a", "x"), Value(5.0))
        self.assertEqual(Value(5.0), cache.get((b"a", "x"), 0.0))
        for key in ((b"a", "y"), (b"b", "x"), (b"a", None)):
            self.assertIsNone(cache.get(key, 0.0))

    def test_expired(self) -> None:
        """A value is removed at its expiry, and makes room."""
        cache: TokenCache[Value] = TokenCache(9)
        cache.put((b"a", None), Value(5.0))
        self.assertEqual(Value(5.0), cache.get((b"a", None), 4.999))
        self.assertIsNone(cache.get((b"a", None), 5.0))
        self.assertEqual(0, len(cache))

    def test_clock_set_back(self) -> None:
        """A value from a time that has not come again is not used: its end is as far away."""
        cache: TokenCache[Value] = TokenCache(9)
        cache.put((b"a", None), Value(5060.0, since=5000.0))
        self.assertIsNotNone(cache.get((b"a", None), 5000.0))
        self.assertIsNone(cache.get((b"a", None), 4999.0))
        self.assertEqual(0, len(cache))

    def test_bounded(self) -> None:
        """With any number of tokens, the newest are kept."""
        cache: TokenCache[Value] = TokenCache(3)
        for octet in range(100):
            cache.put((bytes([octet]), None), Value(5.0))
        self.assertEqual(3, len(cache))
        self.assertIsNone(cache.get((bytes([96]), None), 0.0))
        for octet in (97, 98, 99):
            self.assertIsNotNone(cache.get((bytes([octet]), None), 0.0))

    def test_bounded_bytes(self) -> None:
        """The total size of values is bounded, and a value above the limit is not kept."""
        cache: TokenCache[Value] = TokenCache(9, max_bytes=100)
        for octet in range(50):
            cache.put((bytes([octet]), None), Value(5.0, 30))
        self.assertEqual(3, len(cache))
        cache.put((b"1", None), Value(5.0, 100))
        self.assertEqual(1, len(cache))
        cache.put((b"2", None), Value(5.0, 101))
        self.assertEqual(0, len(cache))

    def test_bytes_are_given_back(self) -> None:
        """A value that is replaced, expired or removed makes room for others."""
        cache: TokenCache[Value] = TokenCache(9, max_bytes=100)
        for _ in range(9):
            cache.put((b"a", None), Value(5.0, 60))
        self.assertIsNone(cache.get((b"a", None), 5.0))
        cache.put((b"b", None), Value(9.0, 100))
        self.assertEqual(1, len(cache))
        cache.clear()
        cache.put((b"c", None), Value(9.0, 100))
        self.assertEqual(1, len(cache))

    def test_again(self) -> None:
        """A value that replaces another evicts no third one."""
        cache: TokenCache[Value] = TokenCache(2)
        for key, end in ((b"a", 1.0), (b"b", 2.0), (b"b", 3.0)):
            cache.put((key, None), Value(end))
        self.assertEqual(Value(1.0), cache.get((b"a", None), 0.0))
        self.assertEqual(Value(3.0), cache.get((b"b", None), 0.0))

    def test_clear(self) -> None:
        """The cache can be cleared."""
        cache: TokenCache[Value] = TokenCache(2)
        cache.put((b"a", None), Value(1.0))
        cache.clear()
        self.assertEqual(0, len(cache))
