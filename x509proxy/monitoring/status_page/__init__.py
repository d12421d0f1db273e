"""The HTML status page: works without scripts, refreshes itself where there are some.

:mod:`~.html` is the one place that escapes text. The page is rendered from a snapshot and the
history of rates, and loads nothing from elsewhere.
"""
