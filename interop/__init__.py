"""Tests with foreign programs: authorization servers, clients, a browser, balancers and scanners.

Run with ``python -m twisted.trial interop``; ``.ci/run`` installs the programs. What configures a
server or the proxy here is taken out of its page in ``docs/servers``, not copied next to it.
"""
