"""HTTP/1.1 without I/O: octets in, frozen messages out, and messages written to octets.

The parsers accept the grammar of RFC 9112 without its leniencies, and nothing else: a message that
two servers could read in two ways is an error, not a guess. A head is validated once, here; what
leaves this package as a :class:`~.messages.RequestHead` or :class:`~.messages.ResponseHead` has
exactly one framing, one host and fields within the limits (invariants L2 and L7).

``RequestParser(settings).feed(data)`` and ``ResponseParser(method, settings).feed(data)`` return
events: a head, pieces of the body, ``END``, or an error response as the last one. There are no
callbacks, and nothing is kept between connections. ``read_request_head`` validates a head that
another parser has split. ``write_head``, ``write_chunk`` and ``status_line`` write.

Errors are values as well: an :class:`~.errors.ErrorResponse` has a stable code that logs and
metrics use, a detail for the operator and a body for the client.

The package is the product's attack surface towards the network. It is readable and testable without
a socket or a reactor, and imports neither Twisted nor OpenSSL.
"""
