"""Tests of :mod:`x509proxy.downstream`."""
