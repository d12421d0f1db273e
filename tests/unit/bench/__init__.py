"""Tests of :mod:`x509proxy.bench`."""
