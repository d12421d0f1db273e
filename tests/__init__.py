"""The suite: ``unit`` mirrors the package's tree, one file per module.

``integration`` joins packages in one process, ``system`` starts processes, ``docs`` reads the
documentation, ``fuzz`` plays with random bytes. What they share is in ``support``.
"""

import signal

from hypothesis import HealthCheck, settings

# A shell ignores SIGINT for its background jobs, and a child inherits an ignored signal, but not a
# handler: the programs that the tests start can be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The suite runs in several processes (.ci/suite.py): wall-clock time says nothing of an example.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
