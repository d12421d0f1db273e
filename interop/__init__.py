"""Proofs by foreign programs: real authorization servers behind the proxy, real clients and a browser in front of it.

Run with ``python -m twisted.trial interop``; ``.ci/run`` installs the programs. What configures a
server or the proxy here is taken out of its page in ``docs/servers``, not copied next to it.
"""
