"""Helpers of the tests: certificates, connections in memory, reference parsers."""
