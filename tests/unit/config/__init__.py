"""Tests of :mod:`x509proxy.config`."""
