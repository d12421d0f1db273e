"""A folder of files for each test, with owners and modes, and the check of an error sentence."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.settings import SettingsError

OTHER_USER = 4711


class FileTestCase(SynchronousTestCase):
    """A folder for each test, and the sentence of each refusal."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)

    def write(self, data: bytes | str, mode: int = 0o600, name: str = "file.pem") -> str:
        path = self.folder / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        path.chmod(mode)
        return str(path)

    def make_alien(self, path: str) -> None:
        """Let the file be neither root's nor ours."""
        if os.geteuid() == 0:
            os.chown(path, OTHER_USER, -1)
        else:
            self.patch(os, "geteuid", lambda: OTHER_USER)

    def become_nobody(self) -> None:
        """Root may read anything, so that it has to be another user for a while."""
        if os.geteuid() == 0:
            os.seteuid(65534)
            self.addCleanup(os.seteuid, 0)

    def assert_sentence(self, error: SettingsError, *parts: str) -> None:
        text = str(error)
        self.assertEqual([part for part in parts if part not in text], [], text)
        self.assertNotIn("\n", text)
