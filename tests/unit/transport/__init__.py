"""Tests of :mod:`x509proxy.transport`."""
