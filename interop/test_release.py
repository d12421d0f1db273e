"""Promises of a release: the same bytes from each build, an SBOM, and a workflow without faults."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from textwrap import dedent
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from interop.stage import Stage

ROOT = Path(__file__).parents[1]
# The extras for contributors, which are no part of the product.
_OWN_EXTRAS = {"bench", "docs", "interop", "test"}
_SECONDS = 300


class Release(Stage):
    """Clones of the last commit, and the pinned tools that build a release."""

    timeout = 2 * _SECONDS

    def setUp(self) -> None:
        super().setUp()
        self.folder.chmod(0o755)
        tools = self.folder / "tools"
        self.run_program(sys.executable, "-m", "venv", str(tools), seconds=_SECONDS)
        self.python = tools / "bin" / "python"
        install = ("-m", "pip", "install", "--quiet", "--require-hashes", "--only-binary=:all:")
        pinned = str(ROOT / ".ci" / "build-requirements.txt")
        self.run_program(str(self.python), *install, "-r", pinned, seconds=_SECONDS)

    def clone(self, name: str) -> Path:
        tree = self.folder / name
        clone = ("git", "-c", "safe.directory=*", "clone", "--quiet", "--no-hardlinks")
        self.run_program(*clone, str(ROOT), str(tree))
        return tree

    def build(self, tree: Path, name: str, umask: int = 0o022, **environment: str) -> Path:
        """Build a release of a clone; return the folder with the archives."""
        folder = self.folder / name
        outside = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "SOURCE_DATE_EPOCH")
        inherited = {key: value for key, value in os.environ.items() if key not in outside}
        done = subprocess.run(
            [self.python, tree / ".ci" / "release.py", "build", folder],
            cwd=self.folder, env=inherited | environment, umask=umask, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=_SECONDS,
        )  # fmt: skip
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        return folder

    def reproduce(self, tree: Path) -> Path:
        """Run the commands of the page on releases in a clone; return the folder that they fill."""
        page = (ROOT / "docs" / "project" / "releases.rst").read_text("utf-8")
        found = re.search(
            r"^\.\. test: reproduce\n\n\.\. code-block:: sh\n\n((?:    .*\n)+)", page, re.MULTILINE
        )
        assert found is not None
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        command = ("sh", "-euc", 'cd "$0" && eval "$1"', str(tree), dedent(found[1]))
        shown = self.run_program(*command, environment={"PATH": path}, seconds=_SECONDS)
        sums = (tree.parent / "dist" / "SHA256SUMS").read_text()
        self.assertTrue(shown.endswith(sums), shown)
        return tree.parent / "dist"


class Reproducible(Release):
    def test_two_builds(self) -> None:
        """Folder, umask, time zone, language, times and modes of files leave no trace."""
        first = self.reproduce(self.clone("one/x509proxy"))
        tree = self.clone("two/a/longer/path")
        for path in tree.rglob("*"):
            if path.is_file() and ".git" not in path.parts:
                path.chmod(path.stat().st_mode | 0o060)
                os.utime(path, (1e9, 1e9))
        second = self.build(tree, "second", 0o077, TZ="Asia/Tokyo", LC_ALL="C.UTF-8", HOME="/")
        names = sorted(path.name for path in first.iterdir())
        self.assertEqual(["SHA256SUMS", ".whl", ".tar.gz"], [kind(name) for name in names])
        for name in names:
            self.assertTrue((first / name).read_bytes() == (second / name).read_bytes(), name)
        self.run_program("sh", "-c", "cd one/dist && sha256sum --check --strict SHA256SUMS")


class Contents(Release):
    def setUp(self) -> None:
        super().setUp()
        self.tree = self.clone("tree")
        dist = self.build(self.tree, "dist")
        (self.source,) = dist.glob("*.tar.gz")
        (wheel,) = dist.glob("*.whl")
        self.wheel = zipfile.ZipFile(wheel)
        self.addCleanup(self.wheel.close)

    def member(self, suffix: str) -> bytes:
        """Return the contents of the one file of the wheel whose name ends so."""
        (name,) = [name for name in self.wheel.namelist() if name.endswith(suffix)]
        return self.wheel.read(name)

    def test_archives(self) -> None:
        """A source archive is the repository; a wheel has a right RECORD and a right SBOM."""
        moment = int(self.run_program("git", "-C", str(self.tree), "log", "-1", "--format=%ct"))
        self.check_source(moment)
        self.check_record()
        metadata = message_from_bytes(self.member(".dist-info/METADATA"))
        text = self.member(".dist-info/sboms/x509proxy.cdx.json").decode("utf-8")
        self.assertIsNone(JsonStrictValidator(SchemaVersion.V1_7).validate_str(text))
        self.check_sbom(json.loads(text), metadata, moment)

    def check_source(self, moment: int) -> None:
        """Assert that the source archive has each file of the repository, and no owner."""
        with tarfile.open(self.source) as archive:
            members = archive.getmembers()
        owners = {(item.uid, item.gid, item.uname, item.gname, item.mtime) for item in members}
        self.assertEqual({(0, 0, "", "", moment)}, owners)
        self.assertLessEqual({item.mode for item in members}, {0o644, 0o755})
        files = {item.name.partition("/")[2] for item in members if item.isfile()}
        tracked = self.run_program("git", "-C", str(self.tree), "ls-files").split()
        self.assertEqual(set(), set(tracked) - files)
        made = {"PKG-INFO", "setup.cfg"}
        extra = {name for name in files - set(tracked) if ".egg-info/" not in name}
        self.assertEqual(made, extra)

    def check_record(self) -> None:
        """Assert that RECORD lists each file of the wheel with its hash, the SBOM among them."""
        listed = {}
        for line in self.member(".dist-info/RECORD").decode("utf-8").splitlines():
            name, digest, _ = line.rsplit(",", 2)
            listed[name] = digest
        self.assertEqual(set(self.wheel.namelist()), set(listed))
        for name, digest in listed.items():
            if not name.endswith("/RECORD"):
                found = hashlib.sha256(self.wheel.read(name)).digest()
                encoded = base64.urlsafe_b64encode(found).rstrip(b"=").decode("ascii")
                self.assertEqual(f"sha256={encoded}", digest, name)

    def check_sbom(self, document: dict[str, Any], metadata: Message, moment: int) -> None:
        """Assert that the SBOM has the product and each dependency, as the metadata has."""
        product = document["metadata"]["component"]
        self.assertEqual(
            (metadata["Name"], metadata["Version"], "MIT"),
            (product["name"], product["version"], product["licenses"][0]["license"]["id"]),
        )
        seconds = self.run_program("date", "-u", "-d", f"@{moment}", "+%Y-%m-%dT%H:%M:%SZ").strip()
        self.assertEqual(seconds, document["metadata"]["timestamp"])
        extras = set(metadata.get_all("Provides-Extra", [])) - _OWN_EXTRAS
        expected: dict[str, tuple[str, str]] = {}
        for line in metadata.get_all("Requires-Dist", []):
            name, ranges, extra = parsed(line)
            if extra is None or extra in extras:
                scope = "required" if extra is None else "optional"
                expected.setdefault(name, (f"vers:pypi/{ranges or '*'}", scope))
        components = {
            component["name"]: (component["versionRange"], component["scope"])
            for component in document["components"]
        }
        self.assertIn("twisted", expected)
        self.assertIn("joserfc", expected)
        self.assertEqual(expected, components)
        graph = {item["ref"]: item.get("dependsOn", []) for item in document["dependencies"]}
        references = [component["bom-ref"] for component in document["components"]]
        self.assertEqual({product["bom-ref"]: references} | {ref: [] for ref in references}, graph)


class Workflow(Stage):
    def test_zizmor(self) -> None:
        """The release workflow has no fault that zizmor finds at its strictest setting."""
        zizmor = str(Path(sys.executable).parent / "zizmor")
        self.require(zizmor)
        folder = str(ROOT / ".github" / "workflows")
        found = self.run_program(zizmor, "--offline", "--persona=pedantic", "--format=json", folder)
        self.assertEqual([], json.loads(found))


def kind(name: str) -> str:
    """Return what is left of an archive's name without name and version."""
    return re.sub(r"^x509proxy-\d+\.\d+\.\d+(?:-py3-none-any)?", "", name)


def parsed(requirement: str) -> tuple[str, str, str | None]:
    """Return name, versions and extra of one ``Requires-Dist``."""
    found = re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?([^;]*?)(?:; extra == \"(\w+)\")?", requirement)
    assert found is not None, requirement
    return found[1], found[2].strip().replace(",", "|"), found[3]
