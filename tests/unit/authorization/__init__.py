"""Tests of :mod:`x509proxy.authorization`."""
