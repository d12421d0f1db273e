"""X.509: the client certificate as a value, PEM files, trust anchors, revocation lists, SNI."""
