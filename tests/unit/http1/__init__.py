"""Tests of :mod:`x509proxy.http1`."""
