"""Connections from clients: HTTP/1.1 server side, requests, limits by address.

A :class:`~.channel.Channel` is one connection: it feeds the parser, serves one request after the
other, and owns the decision whether the connection stays open. A :class:`~.request.Request` is one
request on it: its body as it comes, and the response on its way out. Deadlines that no octet can
put off, and back-pressure in both directions, bound what a client can cost (invariant L7).

After an error response caused by the client nothing more from that connection is processed (L3).
:mod:`~.site_request` gives a request of a stock ``twisted.web`` site the same interface.
"""
