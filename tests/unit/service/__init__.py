"""Tests of :mod:`x509proxy.service`."""
