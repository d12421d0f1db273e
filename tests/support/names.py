"""Secret header names for tests, made from a label.

A name in a repository is public, and the settings reject it.
"""

from __future__ import annotations

import base64
import hashlib
import re

__all__ = ["secret_name"]


def secret_name(label: str) -> str:
    """Return a name that depends on the label only, as random as those of ``x509proxy secret``."""
    digest = base64.b64encode(hashlib.sha512(label.encode()).digest()).decode("ascii")
    return "Sec-Client-X509-Cert-" + re.sub(r"[^A-Za-z0-9]", "", digest)[:32]


NAME = secret_name("test_pem_files")
