"""Tests of :mod:`x509proxy.monitoring`."""
