"""TOML and command line to a validated Configuration."""
