"""Tests of :mod:`x509proxy.monitoring.status_page`."""
