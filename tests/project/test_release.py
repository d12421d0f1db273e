"""Promises of ``.ci/release.py`` and of the release workflow."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "release.py"
WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"
PAGE = ROOT / "docs" / "project" / "releases.rst"
TOOLS = ROOT / ".ci" / "build-requirements.txt"
_CHANGELOG = """\
26.11.0 (2026-11-30)
====================

New things.

Details
-------

- One.

26.10.0 (2026-10-01)
====================

Old things.
"""


def load() -> ModuleType:
    """Return the script as a module: its folder is no package."""
    spec = importlib.util.spec_from_file_location("ci_release", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def steps(job: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = job["steps"]
    return found


class Tree(SynchronousTestCase):
    """A tree that is ready for the tag v26.11.0."""

    def setUp(self) -> None:
        self.release = load()
        self.root = Path(tempfile.mkdtemp(prefix="x509proxy-release-"))
        self.addCleanup(shutil.rmtree, self.root)
        self.write("setup.py", 'setup(\n    version="26.11.0",\n)\n')
        self.write("contrib/Containerfile", "#   podman build --tag x509proxy:26.11.0 .\n")
        self.write("contrib/kubernetes/base/kustomization.yaml", '    newTag: "26.11.0"\n')
        self.write("changelog.d/README.rst", "News fragments\n")
        self.write("CHANGELOG.rst", _CHANGELOG)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def found(self, tag: str | None = "v26.11.0") -> list[str]:
        return list(self.release.findings(self.root, tag))


class Check(Tree):
    def test_ready(self) -> None:
        """A tree whose places agree can be tagged."""
        self.assertEqual([], self.found())

    def test_tag(self) -> None:
        """A tag is the version behind a ``v``, and nothing else."""
        for tag in ("26.11.0", "v26.11.1", "V26.11.0", "v26.11.0-1", "x/v26.11.0"):
            self.assertEqual([f"tag: found {tag}, expected v26.11.0"], self.found(tag))

    def test_version(self) -> None:
        """A version is year, month and number, in PEP 440's normal form."""
        for version in ("26.11", "1.0.0", "26.011.0", "26.13.0", "26.11.00", "26.11.0rc1", ""):
            self.write("setup.py", f'setup(\n    version="{version}",\n)\n')
            expected = f"setup.py: found version {version!r}, expected YY.M.N, such as 26.11.0"
            self.assertIn(expected, self.found())

    def test_copies(self) -> None:
        """Every place that shows the version shows the same one."""
        self.write("contrib/Containerfile", "# x509proxy:26.11.0\n# x509proxy:26.10.0\n")
        self.write("contrib/kubernetes/base/kustomization.yaml", '    newTag: "26.9.0"\n')
        expected = [
            "contrib/Containerfile: found 26.10.0, expected 26.11.0",
            "contrib/kubernetes/base/kustomization.yaml: found 26.9.0, expected 26.11.0",
        ]
        self.assertEqual(expected, self.found())

    def test_old_changelog(self) -> None:
        """The newest section of the changelog is that of the version."""
        self.write("CHANGELOG.rst", _CHANGELOG.partition("26.10.0")[2].join(["26.10.0", ""]))
        expected = ["CHANGELOG.rst: found 26.10.0 in the first heading, expected 26.11.0"]
        self.assertEqual(expected, self.found())

    def test_no_changelog(self) -> None:
        """A changelog without a section is reported like one with an old section."""
        self.write("CHANGELOG.rst", "Changes\n=======\n")
        expected = "CHANGELOG.rst: found nothing in the first heading, expected 26.11.0"
        self.assertIn(expected, self.found())

    def test_unfinished(self) -> None:
        """Before the tag, the section may have no date, and there may be fragments."""
        self.write("CHANGELOG.rst", "26.11.0 (unreleased)\n====================\n")
        self.write("changelog.d/7.feature.rst", "New.\n")
        self.write("changelog.d/+orphan.misc.rst", "Other.\n")
        self.assertEqual([], self.found(None))
        expected = [
            "CHANGELOG.rst: found the date unreleased, expected YYYY-MM-DD",
            "changelog.d: found +orphan.misc.rst, 7.feature.rst, "
            "expected all of them in CHANGELOG.rst",
        ]
        self.assertEqual(expected, self.found())

    def test_this_tree(self) -> None:
        """The places of this tree agree."""
        self.assertEqual([], list(self.release.findings(ROOT, None)))


class Notes(Tree):
    def test_newest(self) -> None:
        """The notes of a release are the newest section, without its heading."""
        found = self.release.section(self.root)
        self.assertEqual("26.11.0", found[0])
        self.assertEqual("New things.\n\nDetails\n-------\n\n- One.\n", found[2])


class Build(Tree):
    def test_dirty(self) -> None:
        """A tree with a file that the commit does not have, ignored or not, is not built."""
        for name in ("new.py", "build/old.py"):
            root = self.root / name.replace("/", "-")
            subprocess.run(["git", "init", "--quiet", str(root)], check=True)
            (root / ".git" / "info" / "exclude").write_text("/build/\n")
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text("")
            with self.assertRaises(SystemExit) as caught:
                self.release.build(root, self.root / "dist")
            self.assertRegex(str(caught.exception), r"^working tree: found .* a clean clone$")


class Command(Tree):
    def run_main(self, *arguments: str) -> tuple[int, str, str]:
        self.patch(self.release, "ROOT", self.root)
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = self.release.main(list(arguments))
        return status, output.getvalue(), errors.getvalue()

    def test_check(self) -> None:
        """``check`` ends with 0 for a tree that is ready, and with 1 and sentences otherwise."""
        self.assertEqual((0, "26.11.0: the files agree\n", ""), self.run_main("check"))
        self.assertEqual(0, self.run_main("check", "v26.11.0")[0])
        finding = "tag: found v1, expected v26.11.0\n"
        self.assertEqual((1, finding, ""), self.run_main("check", "v1"))

    def test_notes(self) -> None:
        """``notes`` prints the text for the release's page."""
        self.assertTrue(self.run_main("notes")[1].startswith("New things.\n"))

    def test_build(self) -> None:
        """``build`` builds into the folder that it is given."""
        built: list[tuple[Path, Path]] = []
        self.patch(self.release, "build", lambda *arguments: built.append(arguments))
        self.assertEqual(0, self.run_main("build", str(self.root / "dist"))[0])
        self.assertEqual([(self.root, (self.root / "dist").resolve())], built)

    def test_usage(self) -> None:
        """Anything else ends with 2 and the usage."""
        for arguments in ((), ("check", "v1", "v2"), ("build",), ("publish",)):
            status, output, errors = self.run_main(*arguments)
            self.assertEqual((2, ""), (status, output), arguments)
            self.assertIn("usage: release.py", errors)


class Tools(SynchronousTestCase):
    def test_pinned(self) -> None:
        """Each tool of the build has one version and a hash."""
        text = re.sub(r"^#.*\n", "", TOOLS.read_text("utf-8"))
        entry = re.compile(r"(\w+)==[\d.]+ \\\n    --hash=sha256:[0-9a-f]{64}\n")
        self.assertEqual("", entry.sub("", text))
        self.assertEqual(
            ["build", "packaging", "pyproject_hooks", "setuptools"], entry.findall(text)
        )


class Workflow(SynchronousTestCase):
    def setUp(self) -> None:
        self.text = WORKFLOW.read_text("utf-8")
        self.workflow: dict[Any, Any] = yaml.safe_load(self.text)
        self.jobs: dict[str, dict[str, Any]] = self.workflow["jobs"]

    def test_by_hand(self) -> None:
        """Nothing but a maintainer starts it. YAML 1.1 reads the key ``on`` as true."""
        self.assertEqual(["workflow_dispatch"], list(self.workflow[True]))

    def test_inactive(self) -> None:
        """Every job waits for the repository's variable; publishing needs a second yes."""
        for name, job in self.jobs.items():
            self.assertTrue(job["if"].startswith("vars.RELEASES == 'enabled'"), name)
        self.assertIn("&& inputs.publish", self.jobs["publish"]["if"])
        self.assertIs(
            False, self.workflow[True]["workflow_dispatch"]["inputs"]["publish"]["default"]
        )

    def test_rights(self) -> None:
        """No right by default; the job that runs the project's code has no identity."""
        self.assertEqual({}, self.workflow["permissions"])
        rights = {name: job["permissions"] for name, job in self.jobs.items()}
        identity = {"id-token": "write"}
        expected = {
            "build": {"contents": "read"},
            "attest": {**identity, "attestations": "write"},
            "publish": identity,
        }
        self.assertEqual(expected, rights)
        self.assertEqual("release", self.jobs["publish"]["environment"])
        self.assertEqual(["build", "attest"], self.jobs["publish"]["needs"])
        self.assertNotIn("secrets", self.text)

    def test_pinned(self) -> None:
        """Each action is pinned to a commit, with its version beside it."""
        used = re.findall(r"uses: (.*)", self.text)
        self.assertEqual(
            sum("uses" in step for job in self.jobs.values() for step in steps(job)), len(used)
        )
        for action in used:
            self.assertRegex(action, r"^[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")

    def test_no_injection(self) -> None:
        """No expression stands in a script: an input arrives as a variable."""
        for job in self.jobs.values():
            for step in steps(job):
                self.assertNotIn("${{", step.get("run", ""))

    def test_no_host(self) -> None:
        """It names no address of an index, a registry or a forge."""
        self.assertNotRegex(self.text, r"https?:|[a-z]\.(?:org|com|io|dev|net)\b")

    def test_scripts(self) -> None:
        """The files that its scripts call exist."""
        named = set(re.findall(r"(\.ci/[\w.-]+)", self.text))
        self.assertEqual({".ci/release.py", ".ci/build-requirements.txt"}, named)
        for name in named:
            self.assertTrue((ROOT / name).exists(), name)


class Page(SynchronousTestCase):
    """The page on releases, against what it describes."""

    def setUp(self) -> None:
        self.page = PAGE.read_text("utf-8")

    def test_files(self) -> None:
        """Each file that the page names exists."""
        named = set(re.findall(r"(?:\.ci|\.github|contrib)/[\w./-]+\w", self.page))
        self.assertLessEqual({".ci/run", ".github/workflows/release.yml"}, named)
        self.assertEqual(set(), {name for name in named if not (ROOT / name).exists()})

    def test_steps(self) -> None:
        """Each step of ``release.py`` that the page names is one."""
        usage = re.search(r"usage: release\.py (.*?)\"", SCRIPT.read_text("utf-8"))
        assert usage is not None
        steps = {step.split()[0] for step in usage[1].split(" | ")}
        self.assertEqual(steps, set(re.findall(r"release\.py\s+([a-z]+)", self.page)))

    def test_workflow(self) -> None:
        """The variable, the environment and the input that it names are the workflow's."""
        workflow = yaml.safe_load(WORKFLOW.read_text("utf-8"))
        for name in ("RELEASES", "enabled", workflow["jobs"]["publish"]["environment"], "publish"):
            self.assertIn(f"``{name}``", self.page)

    def test_versions(self) -> None:
        """The Pythons that it promises are those that the package's metadata lists."""
        listed = re.findall(r"Python :: (3\.\d+)", (ROOT / "setup.py").read_text("utf-8"))
        self.assertIn(f"     - {listed[0]} to {listed[-1]}, each", self.page)
