"""Configuration files in TOML."""

from __future__ import annotations

import re

from tests.support.files import FileTestCase
from x509proxy.config.loader import (
    load_settings,
)
from x509proxy.settings import (
    ProxySettings,
    SettingsError,
)


class TomlTestCase(FileTestCase):
    def load(self, text: str | bytes, mode: int = 0o644) -> ProxySettings:
        self.path = self.write(text, mode, "proxy.toml")
        return load_settings(self.path)

    def refusal(self, text: str | bytes, mode: int = 0o600) -> str:
        error: SettingsError = self.assertRaises(SettingsError, self.load, text, mode)
        self.assert_sentence(error, self.path)
        return str(error).replace(self.path, "FILE")

    def mistake(self, text: str | bytes, mode: int = 0o600) -> str:
        """Return the sentence without its line."""
        return re.sub(r"^FILE: line [0-9]+: ", "FILE: ", self.refusal(text, mode))
