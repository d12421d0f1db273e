"""Token cache: facts about access tokens, by a hash and the certificate's thumbprint.

Facts
-----
* WSO2 product-apim #11521: a token's contents came from a cache, and the certificate was not
  compared any more. So the key has the certificate in it, and the comparison is made outside.
* The key holds a hash. A dump of this process's memory has no token from here.
* Claims have no fixed size: 4096 introspection responses of 128 KiB are 512 MiB. So the octets are
  counted beside the entries (L7).
* A clock that is set back by a day makes each entry last a day longer. So those from after the
  present time are not used.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

__all__ = ["Key", "TokenCache"]

Key = tuple[bytes, str | None]
"""SHA-256 of the field with the token, and ``x5t#S256`` of the certificate, if there is one."""


class _Expiring(Protocol):
    """A value with a beginning and an end, in seconds since the epoch, and a size in bytes."""

    @property
    def since(self) -> float: ...
    @property
    def expires(self) -> float: ...
    @property
    def size(self) -> int: ...


_Value = TypeVar("_Value", bound=_Expiring)


_MAX_BYTES = 16 << 20


class TokenCache(Generic[_Value]):
    """Values until they expire. Beyond ``most`` or ``max_bytes``, the oldest is removed."""

    def __init__(self, most: int, max_bytes: int = _MAX_BYTES) -> None:
        self._most = most
        self._max_bytes = max_bytes
        self._values: dict[Key, _Value] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key, now: float) -> _Value | None:
        """Return the value, unless there is none, it has expired, or it is from after ``now``."""
        value = self._values.get(key)
        if value is not None and not value.since <= now < value.expires:
            self._remove(key)
            return None
        return value

    def put(self, key: Key, value: _Value) -> None:
        """Remember a value."""
        if key in self._values:
            self._remove(key)
        self._values[key] = value
        self._bytes += value.size
        while len(self._values) > self._most or self._bytes > self._max_bytes:
            # A dictionary keeps the order in which its keys came.
            self._remove(next(iter(self._values)))

    def clear(self) -> None:
        """Forget all of them."""
        self._values.clear()
        self._bytes = 0

    def _remove(self, key: Key) -> None:
        self._bytes -= self._values.pop(key).size
