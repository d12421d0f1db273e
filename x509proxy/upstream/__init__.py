"""Connections to the back ends: endpoints, the pool, load balancing and health.

A :class:`~.pool.Pool` is the connections to one back end. It decides without I/O whether a request
gets an idle connection, a new one, a place in the queue or an error, and then does it. A connection
serves one exchange at a time, and is lent again only if nothing about the last response leaves a
doubt where it ended and whom it was for. :mod:`~.health` is a frozen value that each outcome turns
into another; several pools are chosen among by :mod:`~.load_balancing`.
"""
