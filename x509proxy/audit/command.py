"""The command ``x509proxy audit``: checked options, a run, and its reports."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from x509proxy.audit.certificates import AUTHORITY, Store
from x509proxy.audit.client import Address
from x509proxy.audit.lab import Echoes, Field, Lab, Pace, Recording, Source, Target
from x509proxy.audit.options import FORMATS, Options
from x509proxy.audit.probe import Probe, Severity
from x509proxy.audit.probes import PROBES
from x509proxy.audit.recorder import Recorder, parse_listen
from x509proxy.audit.report import (
    Redactor,
    Report,
    progress_line,
    to_html,
    to_json,
    to_junit,
    to_sarif,
    to_table,
)
from x509proxy.audit.run import Result, check_reachable, failures, run
from x509proxy.forwarding.presets import find_preset
from x509proxy.monitoring.snapshot_builder import installed_version
from x509proxy.redaction import without_secrets
from x509proxy.settings import Format, SettingsError

__all__ = ["audit"]

_CLEAN, _FAILED, _BROKEN = 0, 1, 2
_UNTRUSTED = (
    "x509proxy: note: the terminator rejects the client's certificate, so probes with one pass "
    "without a test; --authority makes certificates that it can trust"
)
_PORTS = {"https": 443, "http": 80}


def audit(**arguments: object) -> int:
    """Run the command, and return 0 without failures, 1 with failures, 2 if it cannot run."""
    options = Options(**arguments)  # type: ignore[arg-type]
    try:
        if options.list:
            _print_list()
            return _CLEAN
        report = _audit(options)
        _write(options, report)
    except SettingsError as error:
        print(f"x509proxy: {error}", file=sys.stderr)
        return _BROKEN
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"x509proxy: {where}{error.strerror or error}", file=sys.stderr)
        return _BROKEN
    return _FAILED if failures(report.results, Severity(options.fail_on)) else _CLEAN


def _print_list() -> None:
    for probe in PROBES:
        print(f"{probe.id:28} {probe.severity.value:8}  {probe.promise}")


def _audit(options: Options) -> Report:
    target, probes = read_target(options), chosen(options)
    start = time.monotonic()
    done: list[Result] = []

    def progress(result: Result) -> None:
        done.append(result)
        if sys.stderr.isatty():
            print(
                f"\r\033[K{progress_line(len(done), len(probes), result)}",
                end="",
                file=sys.stderr,
                flush=True,
            )

    with (
        tempfile.TemporaryDirectory(prefix="x509proxy-audit-") as folder,
        _source(options) as source,
    ):
        store = Store(Path(folder), AUTHORITY if options.authority else "")
        _offer_authority(options, store)
        lab = Lab(target, source, store, Pace(rate=options.rate))
        if not check_reachable(lab):
            print(_UNTRUSTED, file=sys.stderr)
        results = tuple(run(lab, probes, progress))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    names = tuple(field.name for field in target.fields)
    shown = without_secrets(options.url or "")
    return Report(shown, results, Redactor(names), installed_version(), time.monotonic() - start)


@contextlib.contextmanager
def _source(options: Options) -> Iterator[Source]:
    if options.listen is None:
        yield Echoes()
        return
    recorder = Recorder(parse_listen(options.listen))
    try:
        yield Recording(recorder)
    finally:
        recorder.stop()


def _offer_authority(options: Options, store: Store) -> None:
    if options.authority is None:
        return
    with options.authority.open("xb") as file:
        file.write(store.get(AUTHORITY).certificate.read_bytes())
    print(
        f"{options.authority}: add it to the terminator's trust store, then press Enter",
        file=sys.stderr,
    )
    sys.stdin.readline()


def _write(options: Options, report: Report) -> None:
    print(to_json(report) if options.json else to_table(report, verbose=options.verbose), end="")
    writers = (("junit", to_junit), ("sarif", to_sarif), ("html", to_html))
    for kind, writer in writers:
        if name := getattr(options, kind):
            Path(name).write_text(writer(report), encoding="utf-8")


# Options to values.


def chosen(options: Options) -> list[Probe]:
    """Return the probes to run.

    :raises SettingsError: an id is unknown.
    """
    known = {probe.id: probe for probe in PROBES}
    for id_ in options.only:
        if id_ not in known:
            raise SettingsError(
                f"only: found {without_secrets(repr(id_))}, expected an id of --list"
            )
    if options.only:
        return [known[id_] for id_ in options.only]
    return [probe for probe in PROBES if options.hostile or not probe.hostile]


def read_target(options: Options) -> Target:
    """Return the terminator and the fields with the certificate.

    :raises SettingsError: an option is missing or invalid.
    """
    if options.url is None:
        raise SettingsError(
            "url: found none, expected the terminator's, such as https://as.example.com"
        )
    if not options.rate > 0:
        raise SettingsError(f"rate: found {options.rate:g}, expected a number above zero")
    address = _address("url", options.url, "https")
    if options.connect is not None:
        address = _elsewhere(address, options.connect)
    return Target(
        address,
        _fields(options),
        _address("direct", options.direct) if options.direct else None,
        _address("plain", options.plain, "http") if options.plain else None,
        tuple(_visible("path", path).encode("ascii") for path in options.path),
        tuple(_visible("other-name", name) for name in options.other_name),
    )


def _address(key: str, url: str, *schemes: str) -> Address:
    expected = f"expected one such as {(schemes or ('http',))[0]}://host:port"
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        # The operating system looks a name up in this coding.
        is_known = parts.scheme in (schemes or _PORTS) and host.encode("idna") == host.encode()
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        is_known, host, port = False, "", 0
    if not is_known or not host:
        raise SettingsError(f"{key}: found {without_secrets(repr(url))}, {expected}")
    return Address(host, port, f"[{host}]" if ":" in host else host)


def _visible(key: str, text: str) -> str:
    if not text.isascii() or not text.isprintable() or not text or " " in text:
        found = without_secrets(repr(text))
        raise SettingsError(f"{key}: found {found}, expected visible ASCII characters")
    return text


def _elsewhere(address: Address, host_and_port: str) -> Address:
    found = _address("connect", f"https://{host_and_port}", "https")
    return attrs.evolve(address, host=found.host, port=found.port)


def _fields(options: Options) -> tuple[Field, ...]:
    name = _name(options)
    if options.preset is None:
        if name is None:
            raise SettingsError("header: found none, expected --header, --header-file or --preset")
        return (Field(name, FORMATS[options.format or Format.PEM_URL.value]),)
    preset = find_preset(without_secrets(options.preset))
    plans = [(plan.name, plan.form) for plan in preset.plans if plan.chain_index == 1]
    if any(form not in FORMATS.values() for _, form in plans):
        # Without a field for the certificate every probe would pass.
        raise SettingsError(f"preset: found {preset.name}, expected one with a certificate header")
    if name is not None and plans:
        plans[0] = (name, plans[0][1])
    if options.format is not None and plans:
        plans[0] = (plans[0][0], FORMATS[options.format])
    fields = tuple(Field(found, form) for found, form in plans if found)
    if not fields:
        raise SettingsError(
            f"header: found none, expected --header-file, since preset {preset.name} needs a name"
        )
    return fields


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except UnicodeDecodeError:
        raise SettingsError(
            f"{path}: found bytes that are not UTF-8, expected a header's name"
        ) from None


def _name(options: Options) -> bytes | None:
    if options.header is not None and options.header_file is not None:
        raise SettingsError("header: found both --header and --header-file, expected one of them")
    text = options.header
    if options.header_file is not None:
        text = _text(options.header_file)
    if text is None:
        return None
    if not text.isascii() or not text.replace("-", "").replace("_", "").isalnum():
        raise SettingsError(
            "header: found other characters, expected a name of letters, digits, - and _"
        )
    return text.encode("ascii")
