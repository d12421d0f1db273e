"""Tests of :mod:`x509proxy.upstream`."""
