"""What the tests share: certificates, in-memory connections, reference parsers."""
