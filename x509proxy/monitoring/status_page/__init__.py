"""The HTML status page."""
