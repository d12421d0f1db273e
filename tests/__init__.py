"""The suite: ``unit`` mirrors the package's tree, one file per module.

``integration`` joins packages in one process, ``system`` starts processes, ``docs`` reads the
documentation, ``fuzz`` plays with random bytes. What they share is in ``support``.
"""

import os
import signal

from hypothesis import HealthCheck, settings

# A shell ignores SIGINT for its background jobs, and a child inherits an ignored signal, but not a
# handler: the programs that the tests start can be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# In CI the suite draws the same examples each time, so that its result is that of the tree. All
# other runs, and the session fuzz of CI, draw new ones.
IS_REPEATABLE = "CI" in os.environ and "X509PROXY_EXHAUSTIVE" not in os.environ
# The suite runs in several processes (.ci/suite.py): wall-clock time says nothing of an example.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=IS_REPEATABLE,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")
