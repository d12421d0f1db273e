"""Connections to the back ends: endpoints, the pool, load balancing and health.

A :class:`~.pool.Pool` is the connections to one back end. It decides without I/O whether a request
gets an idle connection, a new one, a place in the queue or an error, and then does it. A connection
serves one exchange at a time. It is lent again only if the last response leaves no doubt about its
end and its request. :mod:`~.health` is a frozen value; each outcome makes a new one.
:mod:`~.load_balancing` chooses among several pools.
"""
