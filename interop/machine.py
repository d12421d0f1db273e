"""A machine with systemd as its first process, in namespaces of its own.

Its root is an overlay of this machine's, so that nothing here changes, and its network has the
loopback alone. All of it ends with the process that made the namespaces.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

__all__ = ["Machine", "MachineError"]

_PATIENCE = 120.0  # seconds for a boot on a busy machine
_LONGEST_SCRIPT = 240.0  # seconds; an installation takes most of them
# What would reach for devices, the network or the clock, none of which the machine has.
_MASKED = (
    "apt-daily-upgrade.timer", "apt-daily.timer", "e2scrub_reap.service", "getty.target",
    "systemd-logind.service", "systemd-modules-load.service", "systemd-networkd.service",
    "systemd-remount-fs.service", "systemd-resolved.service", "systemd-sysctl.service",
    "systemd-timesyncd.service", "systemd-udev-trigger.service", "systemd-udevd.service",
)  # fmt: skip
# $1: a folder; $2: the checkout; $3: the cgroup of the machine.
_BOOT = f"""
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
mkdir -p "$1/root/srv/checkout"
cp -a "$2/." "$1/root/srv/checkout"
cd "$1/root"
mount -t proc proc proc
mount --rbind /dev dev
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
: > etc/fstab
: > etc/machine-id
rm -rf etc/systemd/system/*.wants var/log/journal
ln -sf /lib/systemd/system/multi-user.target etc/systemd/system/default.target
for unit in {" ".join(_MASKED)}; do ln -sf /dev/null "etc/systemd/system/$unit"; done
exec env -i container=x509proxy PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /lib/systemd/systemd
"""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACES = ("--mount", "--pid", "--ipc", "--uts", "--cgroup")


class MachineError(Exception):
    """The machine could not be started, for a reason that is not the project's."""


class Machine:
    """One machine. ``folder``: an empty one for it; ``checkout``: copied to ``/srv/checkout``."""

    def __init__(self, folder: Path, checkout: Path) -> None:
        self._folder = folder
        self._checkout = checkout
        self._cgroup = _cgroup_folder()
        self._process: subprocess.Popen[bytes] | None = None
        self._first = 0

    def start(self) -> None:
        """Boot, until systemd runs.

        :raises MachineError: namespaces or cgroups are not permitted here.
        """
        try:
            self._cgroup.mkdir()
        except OSError as error:
            raise MachineError(f"no cgroup can be made: {error.strerror}") from None
        # Its own cgroup first: the cgroup namespace begins there, and is removed as a whole.
        join = f'echo $$ > "{self._cgroup}/cgroup.procs"'
        unshare = "exec unshare --fork --kill-child --net " + " ".join(_NAMESPACES)
        with (self._folder.parent / f"{self._folder.name}.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", f'{join} && {unshare} sh -c "$0" sh "$1" "$2"', _BOOT,
                 str(self._folder), str(self._checkout)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        end = time.monotonic() + _PATIENCE
        while not self._is_running():
            if time.monotonic() > end or self._process.poll() is not None:
                text = Path(log.name).read_text("utf-8", "replace").strip()
                raise MachineError(f"systemd does not boot here: {text[-300:]}")
            time.sleep(0.2)

    def _is_running(self) -> bool:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        try:
            self._first = int(children.read_text().split()[0])
        except (OSError, IndexError):
            return False
        found = self.run("systemctl is-system-running")
        return found.stdout.strip() in ("running", "degraded")

    def run(self, script: str, *, online: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a script as root in ``/srv/checkout``, as ``sh -e`` does.

        ``online``: with the network of this machine in place of the loopback alone.
        """
        namespaces = _NAMESPACES if online else (*_NAMESPACES, "--net")
        enter = ["nsenter", "--target", str(self._first), *namespaces, "--root"]
        return subprocess.run(
            [*enter, "env", "-C", "/srv/checkout", "sh", "-e", "-c", script],
            stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=_LONGEST_SCRIPT, check=False,
            cwd="/", env={**os.environ, "PATH": _PATH},
        )  # fmt: skip

    def stop(self) -> None:
        """End all of it, and remove what it left."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        end = time.monotonic() + _PATIENCE
        while self._cgroup.exists() and time.monotonic() < end:
            for folder, _, _ in os.walk(self._cgroup, topdown=False):
                _remove(folder)
            time.sleep(0.1)
        shutil.rmtree(self._folder, ignore_errors=True)


def _remove(folder: str) -> None:
    with contextlib.suppress(OSError):  # its processes are still ending
        Path(folder).rmdir()


def _cgroup_folder() -> Path:
    """Return a new folder in the hierarchy of cgroup2.

    :raises MachineError: there is none.
    """
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4], f"x509proxy-{os.getpid()}")
    raise MachineError("no cgroup2 is mounted")
