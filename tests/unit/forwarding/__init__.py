"""Tests of :mod:`x509proxy.forwarding`."""
