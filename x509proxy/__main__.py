"""The console script as a module: ``python -m x509proxy``."""

from __future__ import annotations

import sys

from x509proxy.cli import main

if __name__ == "__main__":
    sys.exit(main())
