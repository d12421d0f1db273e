"""What may pass to the back end: header sanitising, certificate policy, presets and wire formats."""
