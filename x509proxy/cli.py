"""The console script ``x509proxy``: everything that is not a daemon, and the echo back end.

Each error that the user can correct is one sentence on standard error, with exit status 1. A wrong
command line is argparse's error, with status 2. No file is ever overwritten. Twisted and its
reactor are imported in the commands that need them, so that the others start fast.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import attrs

from x509proxy.audit.options import configure
from x509proxy.settings import Backend, Format, Scheme, SettingsError

if TYPE_CHECKING:
    from twisted.internet.interfaces import IListeningPort, IReactorCore, IStreamServerEndpoint
    from twisted.python.failure import Failure

    from x509proxy.certificates.client_certificate import ClientCertificate
    from x509proxy.forwarding.presets import HeaderPlan, Preset
    from x509proxy.service.config_check import Finding

__all__ = ["main", "make_parser"]

_PRODUCTS = ("nginx", "haproxy", "apache", "caddy", "envoy")
_PLACEHOLDER = "<the secret name>"
# {"iss":"https://as.example.com",...}
_EXAMPLE_CLAIMS = "eyJpc3MiOiJodHRwczovL2FzLmV4YW1wbGUuY29tIi…fQ"
_LISTEN = "tcp:8080:interface=127.0.0.1"
_PROXY = "twistd -n x509proxy --config FILE"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, of ``sys.argv`` by default, and return the exit status.

    :raises SystemExit: by argparse, after ``--help``, ``--version`` or a wrong command line.
    """
    arguments = vars(make_parser().parse_args(argv))
    command = arguments.pop("command")
    try:
        return int(command(**arguments) or 0)
    except SettingsError as error:
        return _fail(*error.sentences)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}")


def _fail(*sentences: str) -> int:
    for sentence in sentences:
        print(f"x509proxy: {sentence}", file=sys.stderr)
    return 1


class _Version(argparse.Action):
    """``--version``, looked up when it is used: reading the metadata is slow."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        """Print the version and leave."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"x509proxy {version('x509proxy')}")
        except PackageNotFoundError:
            print("x509proxy, from a checkout that is not installed")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """A parser that names the proxy's own command to those who look for it here."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and leave with status 2."""
        hint = f"; the proxy itself is {_PROXY}" if "COMMAND" in message else ""
        super().error(f"{message}{hint}")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser; the options of each command are the arguments of its function."""
    parser = _Parser(
        prog="x509proxy", description=f"Tools of the proxy. The proxy itself: {_PROXY}"
    )
    parser.add_argument(
        "--version",
        action=_Version,
        nargs=0,
        default=argparse.SUPPRESS,
        help="print the version and leave",
    )
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser
    )

    command = commands.add_parser("secret", help="make a new secret header name")
    command.add_argument(
        "--preset", default="connect2id", help="the authorization server (connect2id)"
    )
    command.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="write the name to a new file that its owner alone can read",
    )
    command.set_defaults(command=_secret)

    command = commands.add_parser("check", help="check a configuration, like nginx -t")
    command.add_argument("path", metavar="CONFIG.toml", help="the configuration")
    command.add_argument("--json", action="store_true", help="print the findings as JSON")
    command.add_argument("--strict", action="store_true", help="fail on warnings too")
    command.add_argument(
        "--unit",
        metavar="FILE",
        help="the systemd unit whose credentials the configuration names, if it is not installed",
    )
    command.add_argument(
        "--online", action="store_true", help="send requests to the server of [tokens] too"
    )
    command.set_defaults(command=_check)

    command = commands.add_parser(
        "presets", help="list the authorization servers, or show the fields for one of them"
    )
    command.add_argument("name", nargs="?", metavar="NAME", help="one of them; all without it")
    command.set_defaults(command=_presets)

    command = commands.add_parser(
        "client-certificate",
        help="make a key, a self-signed certificate and the JWK set to register",
    )
    command.add_argument(
        "--key",
        "--kind",
        dest="kind",
        default="ec",
        metavar="TYPE",
        help="kind of key: ec, ec-p384, rsa, rsa-4096, ed25519, ml-dsa-44, ml-dsa-65 or "
        "ml-dsa-87 (ec)",
    )
    command.add_argument("--name", default="client", help="the common name (client)")
    command.add_argument("--days", type=int, default=365, help="days until it expires (365)")
    command.add_argument(
        "--out",
        default="client",
        metavar="PREFIX",
        help="beginning of the three files' names (client)",
    )
    command.set_defaults(command=_client_certificate)

    command = commands.add_parser(
        "echo", help="run the demonstration back end, which reports what it receives"
    )
    command.add_argument(
        "--listen", default=_LISTEN, metavar="STRPORTS", help=f"Twisted endpoint ({_LISTEN})"
    )
    command.add_argument(
        "--show-secret-name",
        action="store_true",
        help="show the secret header name and its value too: each client receives them",
    )
    command.set_defaults(command=_echo)

    command = commands.add_parser(
        "audit", help="test any TLS terminator: can a client pass as another through it?"
    )
    configure(command)
    command.set_defaults(command=_audit)

    command = commands.add_parser(
        "export", help="write this configuration for another product, as far as possible"
    )
    command.add_argument(
        "product", choices=_PRODUCTS, metavar="PRODUCT", help=f"one of {', '.join(_PRODUCTS)}"
    )
    command.add_argument("path", metavar="CONFIG.toml", help="the configuration")
    command.set_defaults(command=_export)
    return parser


# Files.


@attrs.frozen
class _File:
    """A file to create. ``mode``: as for chmod, before the umask."""

    path: Path
    data: bytes = attrs.field(repr=False)
    mode: int = 0o644


def _create(*files: _File) -> None:
    """Create all of them, or none.

    :raises OSError: one of them exists, or cannot be written.
    :raises SettingsError: the folder of one does not exist.
    """
    for file in files:
        folder = file.path.parent
        if not folder.exists():
            raise SettingsError(
                f"{file.path}: found no folder {folder}, expected one: mkdir -p {folder}"
            )
        if os.path.lexists(file.path):
            raise FileExistsError(
                errno.EEXIST, "exists already, and nothing is overwritten", str(file.path)
            )
    made: list[Path] = []
    try:
        for file in files:
            # Exclusively: since the check above, another process may have made a file or a link.
            descriptor = os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode)
            made.append(file.path)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(file.data)
    except OSError:
        for path in made:
            path.unlink()
        raise


# Commands.


def _secret(preset: str, write: Path | None) -> None:
    from x509proxy.forwarding.presets import find_preset
    from x509proxy.forwarding.secret_name import new_header_name
    from x509proxy.redaction import without_secrets

    found = find_preset(without_secrets(preset))
    # Without plans of its own, "none" has the name-file of [[headers]].
    if found.plans and not found.takes_name:
        raise SettingsError(
            f"preset: {found.name} has fixed header names, expected a preset that takes a name, "
            "or none for the name-file of [[headers]]"
        )
    name = new_header_name()
    if write:
        _create(_File(write, f"{name}\n".encode("ascii"), 0o600))
    else:
        print(name)
    for line in found.server_lines:
        print(line.replace("{name}", name))


def _check(path: str, json: bool, strict: bool, unit: str | None, online: bool) -> int:
    from twisted.logger import LogLevel

    from x509proxy.service.config_check import Severity, review
    from x509proxy.service.journal import prefix

    if os.geteuid() == 0:
        _become_service(path, unit)
    findings = review(path, unit)
    bad = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    is_good = all(finding.severity not in bad for finding in findings)
    if is_good and online:
        from twisted.internet import reactor

        _probe(path, reactor)
    if json:
        _print_findings(path, findings, is_good)
        return 0 if is_good else 1
    # The journal reads the output of ExecReload=.
    levels = {Severity.ERROR: LogLevel.error, Severity.WARNING: LogLevel.warn}
    for finding in findings:
        # An error begins as those of the start do.
        kind = "x509proxy" if finding.severity is Severity.ERROR else finding.severity.value
        begin = prefix(levels.get(finding.severity, LogLevel.info))
        print(f"{begin}{kind}: {finding.text(path)}", file=sys.stderr)
    if is_good:
        print(f"{path}: the configuration is good")
    return 0 if is_good else 1


def _become_service(path: str, unit: str | None) -> None:
    """Go on with the rights of the user whose service runs the configuration, if there is one."""
    from x509proxy.config.accounts import act_as
    from x509proxy.config.systemd_units import service_of

    service = service_of(path, unit)
    if service is not None and service.user not in ("", "root"):
        problem = act_as(service.user, __file__)
        sentence = (
            f"warning: {service.name}: {problem}"
            if problem
            else (f"note: checked as {service.user}, the user of {service.name}")
        )
        print(sentence, file=sys.stderr)


def _print_findings(path: str, findings: Sequence[Finding], is_good: bool) -> None:
    rows = [
        {
            "severity": one.severity.value,
            "key": one.key,
            "line": one.line or None,
            "message": one.message,
        }
        for one in findings
    ]
    print(json.dumps({"file": path, "good": is_good, "findings": rows}, indent=2))


def _probe(path: str, reactor: IReactorCore) -> None:
    """Run the reactor until the servers that a configuration names have responded.

    :raises SettingsError: one does not respond as it must.
    """
    from x509proxy.service.config_check import probe

    found: list[str | SettingsError] = []

    def failed(failure: Failure) -> None:
        error = failure.value
        if not isinstance(error, SettingsError):
            error = SettingsError(f"tokens: found an error of the kind {type(error).__name__}")
        found.append(error)

    def begin() -> None:
        probed = probe(path, reactor).addCallbacks(found.append, failed)
        probed.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    (result,) = found
    if isinstance(result, SettingsError):
        raise result
    print(result, file=sys.stderr)


def _presets(name: str | None) -> None:
    from x509proxy.forwarding.presets import PRESETS, find_preset

    if name:
        print("\n".join(_example(find_preset(name))))
        return
    rows = [_row(preset) for preset in PRESETS.values()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _row(preset: Preset) -> tuple[str, str, str, str]:
    forms = dict.fromkeys(plan.form.value for plan in preset.plans)
    return preset.name, preset.title, ", ".join(map(_header, preset.plans)), ", ".join(forms)


def _header(plan: HeaderPlan) -> str:
    return plan.name.decode("ascii") or _PLACEHOLDER


def _example(preset: Preset) -> list[str]:
    """Return the fields on the wire, shortened, and the lines of the server's configuration."""
    name = "".join(map(_header, preset.plans[:1]))
    lines = [f"{preset.title}:", *_wire(preset)]
    if preset.server_lines:
        lines += [
            "In the server's configuration:",
            *(f"  {line.replace('{name}', name)}" for line in preset.server_lines),
        ]
    if preset.takes_name:
        makes = f"x509proxy secret --preset {preset.name} makes"
        lines.append(
            f"{makes} {_PLACEHOLDER}."
            if preset.needs_name
            else f"{makes} a secret name instead of {name}."
        )
    return lines


def _wire(preset: Preset) -> Iterator[str]:
    from x509proxy.forwarding.certificate_formats import encode

    certificate = _example_certificate()
    for plan in preset.plans:
        if plan.form is Format.TOKEN_CLAIMS:
            yield f"  {_header(plan)}: {_EXAMPLE_CLAIMS}"
            yield f"    (at most {plan.maximum} bytes; the response to larger claims is 400)"
            continue
        for _, value in encode(certificate, plan.form, plan.name, plan.chain_index):
            yield f"  {_header(plan)}: {_shorten(value.decode('ascii'))}"
        if plan.maximum:
            yield f"    (at most {plan.maximum} bytes; the response to a larger one is 400)"


def _example_certificate() -> ClientCertificate:
    """Return a certificate with a chain, so that the formats for chains have a value."""
    from x509proxy.certificates.client_certificate import ClientCertificate
    from x509proxy.certificates.self_signed import KeyKind, make_self_signed

    leaf, other = (make_self_signed(KeyKind.EC, name).certificate for name in ("client", "issuer"))
    issuer = ClientCertificate.from_x509(other, ())
    return attrs.evolve(ClientCertificate.from_x509(leaf, ()), chain=(issuer.der,))


def _shorten(value: str) -> str:
    """Leave out the middle of each long run of base64, hexadecimal or URL-encoded text."""
    return re.sub(r"[A-Za-z0-9+/% ]{40,}", lambda run: f"{run[0][:16]}…{run[0][-8:]}", value)


def _client_certificate(kind: str, name: str, days: int, out: str) -> None:
    from x509proxy.certificates.client_certificate import ClientCertificate
    from x509proxy.certificates.self_signed import KeyKind, jwk_set, make_self_signed

    kinds = {known.value: known for known in KeyKind}
    if kind not in kinds:
        raise SettingsError(f"key: found {kind!r}, expected one of {', '.join(kinds)}")
    made = make_self_signed(kinds[kind], name, days)
    key, certificate, jwks = (Path(out + suffix) for suffix in (".key", ".pem", ".jwks.json"))
    _create(
        _File(key, made.key_pem, 0o600),
        _File(certificate, made.certificate_pem),
        _File(jwks, json.dumps(jwk_set(made.certificate), indent=2).encode("ascii") + b"\n"),
    )
    print(f"{key}: the private key, not encrypted; its owner alone can read it")
    print(f"{certificate}: the certificate")
    print(f"{jwks}: the JWK set to register with the authorization server")
    print(f"x5t#S256: {ClientCertificate.from_x509(made.certificate, ()).thumbprint}")


def _audit(**arguments: object) -> int:
    try:
        from x509proxy.audit.command import audit
    except ImportError as error:
        _fail(f"audit: found no module {error.name}, expected it: pip install h11 h2")
        return 2
    return audit(**arguments)


def _export(product: str, path: str) -> None:
    from x509proxy.export.command import export

    text, limits = export(product, path)
    print(text, end="")
    for limit in limits:
        print(f"{product}: {limit}", file=sys.stderr)


def _echo(listen: str, show_secret_name: bool) -> None:
    from twisted.internet import reactor

    from x509proxy.certificates.client_certificate import ignore_name_lengths

    ignore_name_lengths()
    _serve(reactor, listen, show_secret_name)


def _serve(reactor: IReactorCore, listen: str, show_secret_name: bool) -> None:
    """Run the back end until the reactor is stopped, for instance by Ctrl-C.

    :raises SettingsError: it cannot listen there.
    """
    from x509proxy.service.echo import Secrets, echo_site

    problems: list[str] = []

    def failed(failure: Failure) -> None:
        problems.append(failure.getErrorMessage())
        reactor.stop()

    endpoint = _endpoint(reactor, listen)
    secrets = Secrets.SHOWN if show_secret_name else Secrets.COVERED
    # Every reactor has a clock.
    site = echo_site(reactor=reactor, secrets=secrets)  # type: ignore[arg-type]
    # A reactor can be stopped only once it runs, and a port that is taken fails at once.
    reactor.callWhenRunning(lambda: endpoint.listen(site).addCallbacks(_announce, failed))
    reactor.run()
    if problems:
        raise SettingsError(f"listen: {problems[0].rstrip('.')}")


def _endpoint(reactor: IReactorCore, listen: str) -> IStreamServerEndpoint:
    from twisted.internet.endpoints import serverFromString

    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, listen)
    except Exception as error:
        # Each kind of endpoint has errors of its own for a description that it cannot read.
        example = f"tcp:{listen}:interface=127.0.0.1" if listen.isdecimal() else _LISTEN
        raise SettingsError(
            f"listen: found {listen!r}, expected a Twisted server endpoint such as {example}: "
            f"{error}"
        ) from None
    return endpoint


def _announce(port: IListeningPort) -> None:
    """Print the address as the value of the proxy's own option."""
    from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

    match port.getHost():
        case IPv4Address(host=host, port=number) | IPv6Address(host=host, port=number):
            where = str(Backend(scheme=Scheme.HTTP, host=host, port=number))
        case UNIXAddress(name=bytes(name)):
            where = str(Backend(scheme=Scheme.UNIX, path=str(Path(os.fsdecode(name)).absolute())))
        case other:
            where = str(other)
    print(f"listening; for the proxy: --backend {where}", flush=True)
