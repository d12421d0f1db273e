"""One file for each room, and each covers its room alone."""

import signal

# A shell ignores SIGINT for what it runs in the background, and what ignores it hands that on to the programs that the tests
# start and interrupt. A handler is not handed on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
