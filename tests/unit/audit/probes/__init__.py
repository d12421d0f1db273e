"""Tests of :mod:`x509proxy.audit.probes`."""
