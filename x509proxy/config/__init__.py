"""From TOML and the command line to one validated, immutable configuration.

:func:`~.loader.load_configuration` reads the settings, checks each of them, reads every file that
they name and returns a :class:`~.configuration.Configuration`, or raises a
:class:`~x509proxy.settings.SettingsError` of one sentence: ``key: found X, expected Y``. A reload
calls the same function and swaps the result in; a configuration that does not load changes nothing.

Warnings are about valid settings that may be mistakes. Each start prints them, and ``x509proxy
check`` adds advice about questions that an auditor would ask.
"""
