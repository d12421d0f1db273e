"""Configurations of other products, written from the proxy's own TOML.

:mod:`~.plan` reduces the settings to what any terminator needs. One module for each product
renders it, with the product's limits as sentences: they stand in the text's comments and go to
standard error. A format that a product cannot write is an error, never an approximation in silence.
"""
