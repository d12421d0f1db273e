"""A folder of files for each test, with owners and modes, and a check of error sentences."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.settings import SettingsError

OTHER_USER = 4711


class FileTestCase(SynchronousTestCase):
    """A test case with a folder, and a check of each rejection's sentence."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)

    def write(self, data: bytes | str, mode: int = 0o600, name: str = "file.pem") -> str:
        path = self.folder / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        path.chmod(mode)
        return str(path)

    def make_alien(self, path: str) -> None:
        """Give the file to an owner other than root and the current user."""
        if os.geteuid() == 0:
            os.chown(path, OTHER_USER, -1)
        else:
            self.patch(os, "geteuid", lambda: OTHER_USER)

    def become_nobody(self) -> None:
        """Change root to another user during the test: root can read any file."""
        if os.geteuid() == 0:
            os.seteuid(65534)
            self.addCleanup(os.seteuid, 0)

    def assert_sentence(self, error: SettingsError, *parts: str) -> None:
        text = str(error)
        self.assertEqual([part for part in parts if part not in text], [], text)
        self.assertNotIn("\n", text)
