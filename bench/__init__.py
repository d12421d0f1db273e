"""The benchmark that anybody can run: ``python -m bench``; ``docs/performance.rst`` says what it measures, and how."""
