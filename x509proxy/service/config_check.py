"""``x509proxy check``: all that can be known of a configuration without starting the proxy."""

from __future__ import annotations

from collections.abc import Iterator

from x509proxy.config.endpoint_strings import missing_folders
from x509proxy.config.file_paths import check_log_place
from x509proxy.config.loader import load_configuration, load_settings
from x509proxy.config.warnings import advice_for
from x509proxy.service.listening import check_kinds

__all__ = ["review"]


def review(path: str) -> Iterator[str]:
    """What is worth a thought in the configuration that this TOML file is.

    :raises SettingsError: it is not good.
    """
    configuration = load_configuration(load_settings(path), config=path)
    check_log_place(configuration.settings)
    check_kinds(configuration.settings)
    yield from (f"warning: {warning}" for warning in configuration.warnings)
    yield from (f"warning: {warning}" for warning in missing_folders(configuration.settings))
    yield from (f"note: {advice}" for advice in advice_for(configuration))
