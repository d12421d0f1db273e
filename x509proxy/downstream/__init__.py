"""Connections from clients: HTTP/1.1 server, requests, limits."""
