"""TLS records as they come in, cut so that OpenSSL is given no more than a turn's share of them.

Facts
-----
* A record begins with five octets in the clear; the last two are the length of what follows (RFC 8446 section 5.1).
* One ``SSL_read`` processes every record that carries no data before it returns, a KeyUpdate in 10 microseconds: the input
  is the only place to bound that work.
* pyOpenSSL reports the lack of a record by an exception, after it has made a buffer. The count of complete records saves it.
"""

from __future__ import annotations

__all__ = ["IncomingRecords"]

_HEADER = 5


class IncomingRecords:
    """The octets of one direction of a connection. ``waiting``: those that OpenSSL has not been given."""

    __slots__ = ("_begun", "_missing", "waiting")

    def __init__(self) -> None:
        self.waiting = b""
        # Of the last record given: a header that is not complete, or the number of octets that its content still lacks.
        self._begun = b""
        self._missing = 0

    def take(self, data: bytes, records: int, octets: int) -> tuple[bytes, int]:
        """Append the next piece of the stream, and remove the first octets of what is waiting.

        They go up to the end of so many records, and are no more than ``octets``.

        :returns: the octets, the beginning of an incomplete record included, and how many records end in them.
        """
        if self.waiting:
            data = self.waiting + data
        given = 0
        if self._begun:
            given = len(self._begun)
            data = self._begun + data
        end = len(data)
        if end > given + octets:  # noqa: PLR1730 - a call less, for each packet
            end = given + octets
        place, count = self._missing, 0
        self._begun, self._missing = b"", 0
        while place <= end:
            # The first time it is the end of a record that began in an earlier piece, if there was one.
            count += place > 0
            if count == records:
                end = place
            elif end - place >= _HEADER:
                place += _HEADER + (data[place + 3] << 8 | data[place + 4])
                continue
            self._begun = data[place:end]
            break
        else:
            self._missing = place - end
        self.waiting = data[end:]
        return data[given:end], count
