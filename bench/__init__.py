"""The benchmark, ``python -m bench``: ``docs/performance.rst`` describes its loads and figures."""
