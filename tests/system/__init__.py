"""Real processes: daemons, workers, signals, limits."""
