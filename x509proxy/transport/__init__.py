"""Between the socket and HTTP: TLS, PROXY protocol, deadlines, Twisted fast paths."""
