"""The HTML status page, rendered from a snapshot and the history of rates.

It works without scripts, loads nothing from elsewhere, and refreshes itself. :mod:`~.html` is the
only module that escapes text.
"""
