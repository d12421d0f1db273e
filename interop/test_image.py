"""Promises of ``contrib/Containerfile``: it passes hadolint and a few rules, builds and runs.

The Compose file and the Quadlet unit are read by the programs that they are for.

No registry of images is needed. The base is made of Debian's packages here, under the name that
the file requests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

from interop.stage import Proxy, Stage
from tests.support.ports import free_port

ROOT = Path(__file__).parent.parent
CONTAINERFILE = ROOT / "contrib" / "Containerfile"
BASE = "debian:trixie-slim"
USER = 65532


def instructions() -> list[tuple[str, str]]:
    """Return the file's instructions in order, each on one line, without comments."""
    lines = re.sub(
        r"\\\n", " ", re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE)
    ).splitlines()
    return [
        (word, rest.strip())
        for word, _, rest in (line.partition(" ") for line in lines if line.strip())
    ]


class File(Stage):
    def test_lint(self) -> None:
        """Hadolint reports nothing, except that Debian's packages are not pinned."""
        hadolint = str(Path(sys.executable).parent / "hadolint")
        self.require(hadolint)
        self.assertEqual("", self.run_program(hadolint, "--no-color", str(CONTAINERFILE)))

    def test_instructions(self) -> None:
        """The instructions are of known kinds, and a user given by number runs the command.

        Images have their short names. Only packages come from the network. There are no secrets and
        no health check.
        """
        found = instructions()
        self.assertEqual({BASE}, {rest.split()[0] for word, rest in found if word == "FROM"})
        self.assertLessEqual(
            {word for word, _ in found},
            {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT"},
        )
        self.assertEqual([f"{USER}:{USER}"], [rest for word, rest in found if word == "USER"])
        self.assertEqual(
            [],
            re.findall(
                r"https?://|curl|wget|\.key\b|header\.txt", " ".join(rest for _, rest in found)
            ),
        )

    def test_sources(self) -> None:
        """Each file copied into the build exists and is needed for a package.

        No other file of a checkout is copied.
        """
        copied = [
            name
            for word, rest in instructions()
            if word == "COPY" and not rest.startswith("--from")
            for name in rest.split()[:-1]
        ]
        self.assertEqual(
            {
                "setup.py",
                "build_commands.py",
                "pyproject.toml",
                "MANIFEST.in",
                "README.rst",
                "LICENSE",
                "twisted",
                "x509proxy",
            },
            set(copied),
        )
        for name in copied:
            self.assertTrue((ROOT / name).exists(), name)

    def test_metrics(self) -> None:
        """The library for Prometheus is installed (``contrib/kubernetes`` has its Service)."""
        (installs,) = [
            rest for word, rest in instructions() if word == "RUN" and "pip install" in rest
        ]
        self.assertIn("'.[metrics]'", installs)

    def test_command(self) -> None:
        """The command runs the proxy in the foreground, without a pid file.

        It is the first process, so that SIGTERM arrives.
        """
        (command,) = [json.loads(rest) for word, rest in instructions() if word == "ENTRYPOINT"]
        config = "/etc/x509proxy/x509proxy.toml"
        self.assertEqual(
            ["twistd", "--nodaemon", "--pidfile=", "x509proxy", "--config", config], command
        )


class Files(Stage):
    """The files that run the image."""

    timeout = 200

    def test_compose(self) -> None:
        """The Compose file is valid by the schema of the Compose specification."""
        program = str(Path(sys.executable).parent / "check-jsonschema")
        self.require(program)
        path = str(ROOT / "contrib" / "compose.yaml")
        said = self.run_program(program, "--builtin-schema", "vendor.compose-spec", path)
        self.assertEqual("ok -- validation done\n", said)

    def test_quadlet(self) -> None:
        """Podman's generator makes a service of the Quadlet unit, with the same options."""
        if os.geteuid() != 0:
            self.skipTest("running Debian's podman here needs root")
        self.require("mmdebstrap")
        # Debian 12 has Podman 4.3, without the generator.
        root = self.folder / "root"
        self.run_program(
            "mmdebstrap", "--quiet", "--variant=extract", "--include=podman", "trixie", str(root),
            seconds=150,
        )  # fmt: skip
        for name in ("lib", "lib64"):
            if (root / "usr" / name).exists() and not (root / name).exists():
                (root / name).symlink_to(f"usr/{name}")
        units = root / "etc" / "containers" / "systemd"
        units.mkdir(parents=True, exist_ok=True)
        (units / "x509proxy.container").write_bytes(
            (ROOT / "contrib" / "x509proxy.container").read_bytes()
        )
        made = self.run_program("chroot", str(root), "/usr/libexec/podman/quadlet", "-dryrun")
        [start] = re.findall(r"^ExecStart=.*podman run .*$", made, re.MULTILINE)
        for option in (
            "--read-only ",
            "--cap-drop all ",
            "--security-opt=no-new-privileges ",
            "--publish 443:8443 ",
            "-v /etc/x509proxy:/etc/x509proxy:ro ",
            "--stop-timeout=40 ",
        ):
            self.assertIn(option, start)
        self.assertTrue(start.endswith(" localhost/x509proxy"), start)


# As a container's runtime does it: the image is read-only, and /etc/x509proxy is from outside.
# The process has no capabilities and cannot get any.
_RUN = """
set -e
root=$1 files=$2
shift 2
mount --bind "$root" "$root"
mount --bind "$files" "$root/etc/x509proxy"
mount -o remount,bind,ro "$root/etc/x509proxy"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -o remount,bind,ro "$root"
exec chroot "$root" /usr/bin/setpriv --reuid=65532 --regid=65532 --groups=0 \
--bounding-set=-all --inh-caps=-all --no-new-privs \
    /usr/bin/env -i PATH=/opt/x509proxy/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 "$@"
"""
# The user and its further ids are in files that only this mount namespace has.
_BUILDER = """
set -e
cd "$1"
mkdir -p home run source
chmod 700 run
chown 4711:4711 home run
cp /etc/passwd passwd
cp /etc/group group
echo builder:x:4711:4711::/:/bin/sh >>passwd
echo builder:x:4711: >>group
echo builder:100000:65536 >subuid
cp subuid subgid
for name in passwd group subuid subgid; do
    test -e "/etc/$name" || touch "/etc/$name"
    mount --bind "$name" "/etc/$name"
done
mount --bind "$2" source
folder=$1
shift 2
exec setpriv --reuid=4711 --regid=4711 --clear-groups env -i \\
    PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME="$folder/home" XDG_RUNTIME_DIR="$folder/run" "$@"
"""
_TOML = """
listen = "tcp:{port}:interface=127.0.0.1"
certificate = "server.pem"
private-key = "server.key"
header-file = "header.txt"
backend = "http://127.0.0.1:{backend}"
access-log = "-"
"""


class Image(Stage):
    timeout = 600

    def setUp(self) -> None:
        super().setUp()
        if os.geteuid() != 0:
            self.skipTest("building an image here needs root")
        self.require("buildah", "mmdebstrap", "newuidmap", "unshare")
        # Separate from the stores of this machine.
        self.stores = [
            "--storage-driver=vfs",
            f"--root={self.folder}/images",
            f"--runroot={self.folder}/running",
        ]
        self.proxy, self.backend = free_port(), free_port()

    def test_runs(self) -> None:
        """The image is built, and serves, without rights.

        It is mounted read-only. It reads secrets that belong to root and to its group.
        """
        self.build()
        self.start_echo()
        root = self.mount_image()
        documents = "opt/x509proxy/lib/python3*/site-packages/x509proxy-*.dist-info/sboms/*.json"
        self.assertEqual(1, len(list(root.glob(documents))))
        process = self.start_image(root)
        self.wait_for(self.proxy, process, "image")
        client = self.client()
        proxy = Proxy(
            self.proxy, self.folder / "server.pem", "", self.folder / "image.log", process
        )
        with urllib.request.urlopen(
            proxy.url, context=self.context(proxy, client), timeout=20
        ) as answer:
            self.assertEqual(
                ["CN=client"], [found["subject"] for found in json.load(answer)["certificates"]]
            )
        status = dict(
            re.findall(
                r"^(\w+):\s+(.*?)\s*$",
                Path(f"/proc/{process.pid}/status").read_text(),
                re.MULTILINE,
            )
        )
        self.assertEqual(
            ["\t".join([str(USER)] * 4), "0", "0" * 16, "1"],
            [status[key] for key in ("Uid", "Groups", "CapEff", "NoNewPrivs")],
        )
        log = proxy.log.read_text()
        self.assertNotRegex(log, "Traceback|Unable to write")

    def build(self) -> None:
        """Build the base of Debian's packages, then the image, as a user without rights.

        pip trusts this machine's certificates. The image leaves the builder as an archive.
        """
        base = self.folder / "base.tar"
        self.run_program(
            "mmdebstrap", "--quiet", "--variant=minbase", "trixie", str(base), seconds=200
        )
        self.write("pip.conf", "[global]\ncert = /ca.crt\n", 0o644)
        base.chmod(0o644)
        self.folder.chmod(0o755)
        container = self.run_builder("from", "scratch")
        self.run_builder("add", container, str(base), "/")
        self.run_builder("commit", container, BASE)
        self.run_builder(
            "build", "--isolation=chroot", "--pull=never", "--network=host",
            "--volume", f"{self.folder}/pip.conf:/etc/pip.conf:ro",
            "--volume", "/etc/ssl/certs/ca-certificates.crt:/ca.crt:ro",
            "--file", f"{self.folder}/source/contrib/Containerfile", "--tag", "x509proxy",
            f"{self.folder}/source",
        )  # fmt: skip
        self.run_builder("push", "x509proxy", f"oci-archive:{self.folder}/home/image.tar")

    def run_builder(self, *arguments: str) -> str:
        """Run ``buildah`` as a user without rights, with 65536 further ids for the image."""
        namespace = ("unshare", "--mount", "sh", "-c", _BUILDER, "sh", str(self.folder), str(ROOT))
        buildah = ("buildah", "--storage-driver=vfs", *arguments)
        return self.run_program(*namespace, *buildah, seconds=400).strip()

    def run_buildah(self, *arguments: str) -> str:
        """Run ``buildah`` as root, with the stores of this test."""
        return self.run_program("buildah", *self.stores, *arguments, seconds=400).strip()

    def start_echo(self) -> None:
        where = f"tcp:{self.backend}:interface=127.0.0.1"
        process = self.start(
            "echo", [str(Path(sys.executable).parent / "x509proxy"), "echo", "--listen", where]
        )
        self.wait_for(self.backend, process, "echo")

    def mount_image(self) -> Path:
        """Return the root file system of the image."""
        container = self.run_buildah("from", f"oci-archive:{self.folder}/home/image.tar")
        root = Path(self.run_buildah("mount", container))
        self.addCleanup(self.run_buildah, "umount", "--all")
        return root

    def start_image(self, root: Path) -> subprocess.Popen[bytes]:
        """Run the image's ENTRYPOINT in its root file system.

        ``/etc/x509proxy`` has the files of the folder ``etc``.
        """
        (root / "etc" / "x509proxy").mkdir()
        files = self.folder / "etc"
        files.mkdir(0o755)
        self.server_files()
        for name in ("server.pem", "server.key", "header.txt"):
            (files / name).write_bytes((self.folder / name).read_bytes())
            (files / name).chmod(0o440)
        self.write("etc/x509proxy.toml", _TOML.format(port=self.proxy, backend=self.backend), 0o444)
        (command,) = [json.loads(rest) for word, rest in instructions() if word == "ENTRYPOINT"]
        return self.start(
            "image", ["unshare", "--mount", "sh", "-c", _RUN, "sh", str(root), str(files), *command]
        )
