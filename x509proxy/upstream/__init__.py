"""Connections to the back ends: pool, health, load balancing."""
