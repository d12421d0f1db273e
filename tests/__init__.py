"""The suite: ``unit`` mirrors the package's tree, one file per module.

``integration`` joins packages in one process, ``system`` starts processes, ``docs`` reads the
documentation, ``fuzz`` plays with random bytes. What they share is in ``support``.
"""

import signal

# A shell ignores SIGINT for its background jobs, and a child inherits an ignored signal, but not a
# handler: the programs that the tests start can be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
