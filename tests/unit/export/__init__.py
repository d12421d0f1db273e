"""Tests of :mod:`x509proxy.export`."""
