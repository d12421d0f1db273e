"""Tests of :mod:`x509proxy.audit.export`."""
