"""Token cache: facts about access tokens, by the hash of token and scheme and the certificate's thumbprint.

Facts
-----
* WSO2 product-apim #11521: a token's contents came from a cache, and the certificate was not
  compared any more. So the key has the certificate in it, and the comparison is made outside.
* The key holds a hash. A dump of this process's memory has no token from here.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

__all__ = ["Key", "TokenCache"]

Key = tuple[bytes, str | None]
"""SHA-256 of the field with the token, and ``x5t#S256`` of the certificate that came with it, if one did."""


class _Expiring(Protocol):
    """A value with an end: seconds since the epoch."""

    @property
    def expires(self) -> float: ...


_Value = TypeVar("_Value", bound=_Expiring)


class TokenCache(Generic[_Value]):
    """Values until they expire; beyond ``most`` of them, the oldest makes room."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[Key, _Value] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key, now: float) -> _Value | None:
        """Return the value, unless there is none or it has expired."""
        value = self._values.get(key)
        if value is not None and value.expires <= now:
            del self._values[key]
            return None
        return value

    def put(self, key: Key, value: _Value) -> None:
        """Remember a value."""
        if key not in self._values and len(self._values) >= self._most:
            # A dictionary keeps the order in which its keys came.
            del self._values[next(iter(self._values))]
        self._values[key] = value

    def clear(self) -> None:
        """Forget all of them."""
        self._values.clear()
