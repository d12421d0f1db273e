"""Every check of the project. ``nox --list`` names them; ``nox -s "tests-3.12"`` runs one.

``.ci/run`` runs all of them in a clean clone. A session that runs trial appends its counts to the
file that ``X509PROXY_COUNTS`` names, so that the last line of ``.ci/run`` comes from real counts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "types", "imports", "tests-3.11"]

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
DEFAULT = PYTHONS[0]
# The oldest versions that setup.py admits.
OLDEST = (
    "twisted==26.10.0",
    "pyopenssl==26.3.0",
    "cryptography==49.0.0",
    "msgspec==0.21.0",
    "tomli==2.2.1",
)
CHECKED = ("x509proxy", "tests", "interop", "bench", "docs")
COVERAGE = "100"  # percent, of lines and branches
FUZZ_SECONDS = os.environ.get("FUZZ_SECONDS", "60")
# For some tests of the suite, which are skipped without them, by their Debian names.
SUITE_PROGRAMS = ("golang-go", "jq", "logrotate", "prometheus")
# For the servers, clients and scanners of interop/.
PROGRAMS = (
    "apache2", "buildah", "chromium", "curl", "golang-go", "haproxy", "iproute2",
    "libnginx-mod-stream", "libnss3-tools", "logrotate", "maven", "mmdebstrap", "nginx",
    "openjdk-17-jdk-headless", "openssl", "prometheus", "slowhttptest", "sslscan", "stunnel4",
    "systemd", "testssl.sh", "tomcat10", "uidmap", "wget",
)  # fmt: skip


def trial(session: nox.Session, *arguments: str) -> None:
    """Run trial; print its output, append its counts, and fail as it fails."""
    # A short folder outside the session's: the path of a Unix socket has 107 bytes at most, and
    # the folders above it must be open to the users that some tests become.
    with tempfile.TemporaryDirectory(prefix="trial-") as folder:
        Path(folder).chmod(0o755)
        log = Path(folder) / "log"
        command = ["python", "-m", "twisted.trial", f"--temp-directory={folder}/t", *arguments]
        counted(session, log, *command)


def suite(session: nox.Session, *options: str) -> None:
    """Run the whole suite, in several processes at a time."""
    with tempfile.TemporaryDirectory(prefix="suite-") as folder:
        counted(session, Path(folder) / "log", "python", ".ci/suite.py", *options)


def tests_or_suite(session: nox.Session) -> None:
    """Run the tests that posargs name, or the whole suite."""
    if session.posargs:
        trial(session, *session.posargs)
    else:
        suite(session)


def counted(session: nox.Session, log: Path, *command: str) -> None:
    """Run a command that ends with trial's summary, and append the counts."""
    # The output goes through: a session of some minutes must not be silent.
    pipe = f"set -o pipefail; \"$@\" 2>&1 | tee '{log}'"
    try:
        session.run("bash", "-c", pipe, "trial", *command, external=True)
    finally:
        append_counts(session.name, log)


def append_counts(session: str, log: Path) -> None:
    """Append what trial counted, as one line of JSON; a run without a summary has failed.

    The output stands beside it: ``.ci/summary.py`` prints the failures again at the end.
    """
    text = log.read_text(errors="replace") if log.exists() else ""
    summaries = re.findall(r"^(?:PASSED|FAILED)(?: \((.*)\))?$", text, re.MULTILINE)
    counts = dict(re.findall(r"(\w+)=(\d+)", summaries[-1])) if summaries else {"errors": "1"}
    failed = sum(int(counts.get(key, 0)) for key in ("failures", "errors", "unexpectedSuccesses"))
    entry = {
        "session": session,
        "passed": int(counts.get("successes", 0)),
        "failed": failed,
        "skipped": int(counts.get("skips", 0)),
        "output": text,
    }
    if path := os.environ.get("X509PROXY_COUNTS"):
        with Path(path).open("a") as file:
            file.write(json.dumps(entry) + "\n")


def debian(session: nox.Session, *packages: str) -> None:
    """Install Debian packages that are missing, as root; otherwise their tests are skipped."""
    asked = ["dpkg-query", "-W", "-f=${Package} ${Status}\n", *packages]
    known = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    missing = [name for name in packages if f"{name} install ok installed" not in known]
    if not missing or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    # Debian starts a service with some packages, on ports that others may need.
    policy = Path("/usr/sbin/policy-rc.d")
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        session.run("apt-get", "update", "-qq", external=True, silent=True)
        install = ("apt-get", "install", "-y", "-qq", "--no-install-recommends")
        session.run(*install, *missing, external=True, silent=True, env=quiet)
    finally:
        policy.unlink()


@nox.session(python=DEFAULT)
def lint(session: nox.Session) -> None:
    """Check the style, the changelog fragments, and the prose of code and documentation."""
    session.install("-e", ".[test]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("python", ".ci/prose.py")
    session.run("towncrier", "build", "--draft", "--version", "next", silent=True)


@nox.session(python=DEFAULT)
def types(session: nox.Session) -> None:
    """Run mypy in strict mode over all code."""
    session.install("-e", ".[test,interop,docs]")
    session.run("mypy", "--strict", *CHECKED)


@nox.session(python=DEFAULT)
def imports(session: nox.Session) -> None:
    """Check the order of the packages."""
    session.install("-e", ".[test]")
    session.run("lint-imports")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the test suite with each installed Python."""
    session.install("-e", ".[test]")
    tests_or_suite(session)


@nox.session(python=DEFAULT)
def oldest(session: nox.Session) -> None:
    """Run the test suite with the oldest dependencies."""
    session.install("-e", ".[test]", *OLDEST)
    tests_or_suite(session)


@nox.session(python=DEFAULT)
def coverage(session: nox.Session) -> None:
    """Run the suite with its coverage, also of each module by its own tests.

    As root, install the programs that some of its tests need.
    """
    debian(session, *SUITE_PROGRAMS)
    session.install("-e", ".[test]")
    session.run("coverage", "erase")
    suite(session, "--coverage")
    session.run("coverage", "report", f"--fail-under={COVERAGE}")
    session.run("python", ".ci/individual_coverage.py", "--data", ".coverage")


@nox.session(python=DEFAULT)
def docs(session: nox.Session) -> None:
    """Build the documentation, with warnings as errors, in the folder of posargs."""
    session.install("-e", ".[docs]")
    folder = (
        session.posargs[0]
        if session.posargs
        else str(Path(session.virtualenv.location).resolve() / "html")
    )
    session.run("sphinx-build", "-n", "-W", "--keep-going", "-q", "docs", folder)


@nox.session(python=DEFAULT)
def fuzz(session: nox.Session) -> None:
    """Fuzz each direction for a minute (FUZZ_SECONDS=3600 for an hour), and try whole products."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.fuzz", "--seconds", FUZZ_SECONDS)
    # The suite takes samples of these products.
    session.env["X509PROXY_EXHAUSTIVE"] = "1"
    trial(session, "tests.integration.test_spoofing", "tests.integration.test_reference_parsers")


@nox.session(python=DEFAULT)
def package(session: nox.Session) -> None:
    """Build and install the package in every way; run the README's commands."""
    session.install("-e", ".[test,interop]")
    trial(session, "interop.test_install", "interop.test_release")


@nox.session(python=DEFAULT)
def demo(session: nox.Session) -> None:
    """Run the README's demonstration and each ``curl`` line that it prints."""
    session.install("-e", ".[test]")
    trial(session, "interop.test_install.Readme.test_demo")


@nox.session(python=DEFAULT)
def scanners(session: nox.Session) -> None:
    """Run TLS scanners, slow clients and auditors alone. As root, install those of Debian."""
    debian(session, "curl", "openssl", "slowhttptest", "sslscan", "testssl.sh")
    session.install("-e", ".[test,interop]")
    trial(session, "interop.test_scanners")


@nox.session(python=DEFAULT)
def interop(session: nox.Session) -> None:
    """Run real servers, clients, browsers and scanners. As root, install them."""
    node = () if shutil.which("npm") else ("nodejs", "npm")
    debian(session, *PROGRAMS, *node)
    session.install("-e", ".[test,interop]")
    folder = Path(session.virtualenv.location).resolve() / "node"
    folder.mkdir(exist_ok=True)
    shutil.copy("interop/node/package.json", folder)
    install = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent")
    session.run(*install, "--prefix", str(folder), external=True)
    session.env["X509PROXY_INTEROP_NODE"] = str(folder)
    # Kept in ~/.cache unless X509PROXY_CACHE names another folder: 290 MB. One that could not be
    # fetched (exit status 1) fails its own tests.
    session.run("python", "-m", "interop.downloads", success_codes=[0, 1])
    trial(session, *(session.posargs or ["interop"]))
