"""Configurations for other products, from the proxy's own TOML: the command ``x509proxy export``.

:mod:`~.plan` reduces the settings to those that every terminator needs. A module for each product
renders the plan. The product's limits are sentences in the comments and on standard error. A format
that a product cannot write is an error, not an approximation.
"""
