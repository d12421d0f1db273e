"""Counters, access-log format, snapshots, Prometheus, status page."""
