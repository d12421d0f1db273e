"""Tests of :mod:`x509proxy.certificates`."""
