"""Several modules together: a whole proxy in memory, or on sockets of this process."""
