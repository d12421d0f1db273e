"""Fuzz tests of both directions through a whole proxy.

``python -m tests.fuzz [--seconds N] [--seed S] [--direction D]`` runs it.
"""
