"""Incoming TLS records, passed to OpenSSL in limited portions.

Facts
-----
* A record begins with five bytes in plaintext. The last two are the length of the rest (RFC 8446
  section 5.1).
* One ``SSL_read`` processes all records without data before it returns, and a KeyUpdate takes 10
  microseconds. So this work can only be limited at the input.
* If no record is complete, pyOpenSSL allocates a buffer and then raises an exception. The count of
  complete records avoids the call.
"""

from __future__ import annotations

__all__ = ["IncomingRecords"]

_HEADER = 5


class IncomingRecords:
    """The received bytes of a connection. ``waiting`` has those that OpenSSL has not got yet."""

    __slots__ = ("_begun", "_missing", "waiting")

    def __init__(self) -> None:
        self.waiting = b""
        # State of the last record in OpenSSL: the bytes of an incomplete header, or the number of
        # missing bytes of its content.
        self._begun = b""
        self._missing = 0

    def take(self, data: bytes, records: int, octets: int) -> tuple[bytes, int]:
        """Append ``data``, and remove bytes from the beginning for OpenSSL.

        They reach at most to the end of that number of records, and are at most ``octets`` many.

        :returns: the bytes, which may end with a part of a record, and the number of records that
            end in them.
        """
        if self.waiting:
            data = self.waiting + data
        given = 0
        if self._begun:
            given = len(self._begun)
            data = self._begun + data
        end = len(data)
        if end > given + octets:  # noqa: PLR1730 - saves a call for each packet
            end = given + octets
        offset, count = self._missing, 0
        self._begun, self._missing = b"", 0
        while offset <= end:
            # At first it is the end of a record that began in an earlier piece, if there was one.
            count += offset > 0
            if count == records:
                end = offset
            elif end - offset >= _HEADER:
                offset += _HEADER + (data[offset + 3] << 8 | data[offset + 4])
                continue
            self._begun = data[offset:end]
            break
        else:
            self._missing = offset - end
        self.waiting = data[end:]
        return data[given:end], count
