"""HTTP/1.1 parsing and validation without I/O (over llhttp)."""
