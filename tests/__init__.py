"""One file for each room, and each covers its room alone."""
