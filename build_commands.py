"""Build commands for setup.py: archives that can be reproduced, with an SBOM in the wheel.

The bytes of an archive depend on the sources, the versions of the build tools and
``SOURCE_DATE_EPOCH``. User, modes, times and folders of the machine do not enter it. The SBOM has
the place of PEP 770, ``*.dist-info/sboms/``. Its format is CycloneDX 1.7, the first one in which a
dependency can be external and have a range of versions: the wheel contains no other project.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import tarfile
import time
import uuid
from datetime import UTC, datetime
from email import message_from_string
from email.message import Message
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement  # setuptools brings it along
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.sdist import sdist

# The extras for users; the others are for the project's own checks.
USER_EXTRAS = ("audit", "http2", "jwt", "metrics")


class Sdist(sdist):
    """Make a source archive with nothing of this machine in it."""

    def make_archive(self, base_name: str, format: str, *arguments: Any, **options: Any) -> str:  # noqa: A002
        """Write ``BASE_NAME.tar.gz``; leave other formats to setuptools."""
        if format != "gztar":
            return super().make_archive(base_name, format, *arguments, **options)
        path = Path(f"{base_name}.tar.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tar(path, Path(options["base_dir"]))
        return str(path)


class BdistWheel(bdist_wheel):
    """Make a wheel with an SBOM and with the modes that Git has."""

    def egg2dist(self, egginfo_path: str, distinfo_path: str) -> None:
        """Add the SBOM to the metadata, of an editable installation too."""
        super().egg2dist(egginfo_path, distinfo_path)
        folder = Path(distinfo_path)
        metadata = message_from_string((folder / "METADATA").read_text("utf-8"))
        (folder / "sboms").mkdir()
        text = json.dumps(sbom(metadata), indent=1) + "\n"
        (folder / "sboms" / "x509proxy.cdx.json").write_text(text, "utf-8")

    def write_wheelfile(self, *arguments: Any, **options: Any) -> None:
        """Write the last file of the wheel, and give all of its files their modes."""
        super().write_wheelfile(*arguments, **options)
        for path in Path(self.bdist_dir).rglob("*"):
            if path.is_file():
                path.chmod(git_mode(path.stat().st_mode))


def build_time() -> int:
    """Return ``SOURCE_DATE_EPOCH``, or the present time without it."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())


def git_mode(mode: int) -> int:
    """Return the mode of a file as Git keeps it: executable or not."""
    return 0o755 if mode & 0o100 else 0o644


def write_tar(path: Path, folder: Path) -> None:
    """Write a folder as a gzip archive, sorted, with one time and without an owner."""
    moment = build_time()

    def normal(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = moment
        member.mode = 0o755 if member.isdir() else git_mode(member.mode)
        return member

    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", 9, file, mtime=moment) as packed,
        # Followed: setuptools fills the folder with hard links.
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, dereference=True) as tar,
    ):
        tar.add(folder, folder.name, filter=normal)


def sbom(metadata: Message) -> dict[str, Any]:
    """Return the CycloneDX document for a wheel's core metadata."""
    name, version = metadata["Name"], metadata["Version"]
    reference = f"pkg:pypi/{name}@{version}"
    components = external_components(metadata.get_all("Requires-Dist", []))
    names = [component["bom-ref"] for component in components]
    moment = datetime.fromtimestamp(build_time(), UTC)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "version": 1,
        "metadata": {
            "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lifecycles": [{"phase": "build"}],
            "component": {
                "type": "application",
                "bom-ref": reference,
                "name": name,
                "version": version,
                "description": metadata["Summary"],
                "licenses": [{"license": {"id": metadata["License-Expression"]}}],
                "purl": reference,
            },
        },
        "components": components,
        "dependencies": [
            {"ref": reference, "dependsOn": names},
            *({"ref": dependency} for dependency in names),
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(document))
    return {**document, "serialNumber": f"urn:uuid:{serial}"}


def external_components(requirements: list[str]) -> list[dict[str, Any]]:
    """Return the projects that the environment provides, with the versions that are accepted."""
    found: dict[str, dict[str, Any]] = {}
    for requirement in map(Requirement, requirements):
        scope = dependency_scope(str(requirement.marker or ""))
        reference = f"pkg:pypi/{requirement.name.lower()}"
        if scope is None or reference in found:
            continue
        ranges = sorted(str(specifier) for specifier in requirement.specifier)
        found[reference] = {
            "type": "library",
            "bom-ref": reference,
            "name": requirement.name,
            "versionRange": f"vers:pypi/{'|'.join(ranges) or '*'}",
            "isExternal": True,
            "scope": scope,
            "purl": reference,
        }
    return list(found.values())


def dependency_scope(marker: str) -> str | None:
    """Return the CycloneDX scope of a requirement; ``None`` for the project's own checks.

    A marker is not evaluated: the interpreter of the build is not the one of the installation.
    """
    extras = set(re.findall(r"extra == \"([^\"]+)\"", marker))
    if not extras:
        return "required"
    return "optional" if extras & set(USER_EXTRAS) else None


COMMANDS = {"bdist_wheel": BdistWheel, "sdist": Sdist}
