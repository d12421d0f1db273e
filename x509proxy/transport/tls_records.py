"""TLS records as they come in: how many are complete, so that OpenSSL need not be asked for one that is not there.

Facts
-----
* A record begins with five octets in the clear; the last two are the length of what follows (RFC 8446 section 5.1).
* That nothing is there pyOpenSSL tells by an exception, after a buffer has been made for what is not.
* More may be counted than OpenSSL hands out: an alert or a message of the handshake is no data. Never less.
"""

from __future__ import annotations

__all__ = ["Records"]

_HEADER = 5


class Records:
    """The records of one direction of a connection. ``ready``: how many have come and not been taken; the taker counts down."""

    __slots__ = ("_begun", "_skip", "ready")

    def __init__(self) -> None:
        # A header that is not complete yet, and what is missing of a record whose header is.
        self._begun = b""
        self._skip = 0
        self.ready = 0

    def feed(self, data: bytes) -> None:
        """Count the records that end in this piece, the next of the stream."""
        if self._begun:
            data, self._begun = self._begun + data, b""
        place, end = self._skip, len(data)
        while place <= end:
            # The first time round it is the end of a record that began in an earlier piece, if there was one.
            self.ready += place > 0
            if end - place < _HEADER:
                self._begun, self._skip = data[place:], 0
                return
            place += _HEADER + (data[place + 3] << 8 | data[place + 4])
        self._skip = place - end
