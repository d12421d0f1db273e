r"""Endpoint strings such as ``tcp:8443``: their only parser, and the checks of all listeners.

The checks run before any socket is opened. Each mistake is one sentence.

Facts
-----
* In an endpoint string ``:`` ends a part, and the first ``=`` of a part ends its name. ``\``
  escapes either (``twisted.internet.endpoints``).
* Twisted plug-ins add other types of endpoints. Their arguments are not checked here.
* Twisted creates a unix socket with mode 666 unless its endpoint string has a ``mode``.
* Twisted leaves ``IPV6_V6ONLY`` to the system. Where Linux's ``net.ipv6.bindv6only`` is 0, a socket
  on ``::`` accepts IPv4 too.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import attrs

from x509proxy.redaction import without_secrets
from x509proxy.settings import MAX_SOCKET_PATH, Backend, ProxySettings, Scheme, SettingsError

__all__ = [
    "KINDS",
    "Description",
    "EndpointSyntaxError",
    "check_endpoints",
    "endpoint_string",
    "endpoint_type",
    "endpoint_warnings",
    "expected_for",
    "private_socket",
    "socket_paths",
]

KINDS = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "backlog", "interface"),
    "unix": ("address", "mode", "backlog", "lockfile"),
    "systemd": ("domain", "index", "name"),
}
"""The arguments of each type of endpoint, in the order of positional arguments."""
_EXAMPLES = {
    "tcp": "tcp:8443 or tcp:8443:interface=127.0.0.1",
    "tcp6": r"tcp6:8443 or tcp6:8443:interface=\:\:1",
    "unix": "unix:/path or unix:/path:mode=660",
    "systemd": "systemd:domain=INET:name=NAME",
}
_WITH_TLS = frozenset({"ssl", "tls", "x509"})
_KIND = re.compile(r"[a-z][a-z0-9_+-]*")
_TOKEN = re.compile(r"\\(.)|([:=])|([^\\:=]+)", re.DOTALL)
_ANY_IPV4 = str(ipaddress.IPv4Address(0))
_BIND_V6_ONLY = Path("/proc/sys/net/ipv6/bindv6only")


class EndpointSyntaxError(Exception):
    """An invalid endpoint string. The message follows ``found 'STRING' `` in a sentence."""


def expected_for(kind: str = "") -> str:
    """Return valid examples of a type of endpoint, or of all, for the end of a sentence."""
    return _EXAMPLES.get(kind) or (
        "tcp:8443, tcp:8443:interface=127.0.0.1, tcp6:8443, unix:/path "
        "or systemd:domain=INET:name=NAME"
    )


@attrs.frozen
class Description:
    """A parsed endpoint string."""

    kind: str
    """The type of endpoint, such as ``tcp``."""
    arguments: Mapping[str, str]
    """Arguments by name. Empty for a type that a plug-in adds."""

    @classmethod
    def parse(cls, text: str) -> Description:
        """Parse an endpoint string and check each argument.

        :raises EndpointSyntaxError: the string is invalid.
        """
        positional, named = _parts(text)
        kind, *values = positional or [""]
        if not _KIND.fullmatch(kind):
            raise EndpointSyntaxError("without the type of endpoint")
        if kind not in KINDS:
            return cls(kind, {})
        arguments = _arguments(KINDS[kind], values, named)
        if kind == "systemd" and ("index" in arguments) is ("name" in arguments):
            raise EndpointSyntaxError("with neither or both of index and name")
        return cls(kind, arguments)

    @property
    def is_local(self) -> bool:
        """Return True for a unix socket or a loopback address, which other hosts cannot reach."""
        if self.kind == "unix":
            return True
        return _is_loopback(self.arguments.get("interface", ""))

    @property
    def address(self) -> tuple[str, ...]:
        """Return the address as a tuple that is equal for equal addresses.

        It is empty if the address is unknown: port 0, or a type that a plug-in adds.
        """
        if self.kind in ("tcp", "tcp6"):
            port = int(self.arguments["port"])
            default = "::" if self.kind == "tcp6" else _ANY_IPV4
            interface = self.arguments.get("interface") or default
            host = "127.0.0.1" if interface == "localhost" else interface
            return ("tcp", str(port), host) if port else ()
        if self.kind == "unix":
            path = os.path.abspath(self.arguments["address"])  # noqa: PTH100 - keeps links
            return ("unix", path)
        return ("systemd", *sorted(self.arguments.values())) if self.arguments else ()


def _parts(text: str) -> tuple[list[str], dict[str, str]]:
    positional: list[str] = []
    named: dict[str, str] = {}
    name: str | None = None
    value = ""
    for token in _TOKEN.finditer(text + ":"):
        if token[2] == "=" and name is None:
            name, value = value, ""
        elif token[2] != ":":
            value += token[1] or token[0]
        elif name is None:
            positional, value = [*positional, value], ""
        elif name in named:
            raise EndpointSyntaxError(f"with more than one {name}")
        else:
            named[name] = value
            name, value = None, ""
    if value or name is not None:
        # It escapes the colon that was appended above.
        raise EndpointSyntaxError("with a backslash at its end")
    return positional, named


def _arguments(names: tuple[str, ...], values: list[str], named: dict[str, str]) -> dict[str, str]:
    """Return all arguments by name, after a check of each. The first of ``names`` is required."""
    if len(values) > len(names):
        raise EndpointSyntaxError("with one part too many")
    for name in named:
        if name not in names:
            raise EndpointSyntaxError(f"with an unknown argument {name!r}")
        if name in names[: len(values)]:
            raise EndpointSyntaxError(f"with more than one {name}")
    arguments = {names[0]: "", **named, **dict(zip(names, values, strict=False))}
    for name, value in arguments.items():
        _CHECKS[name](value)
    return arguments


def _check_port(port: str) -> None:
    if not port:
        raise EndpointSyntaxError("without a port")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise EndpointSyntaxError(f"with the port {port!r}, which is not within 0 to 65535")


def _check_interface(interface: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9._-]*|[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?", interface):
        raise EndpointSyntaxError(f"with the interface {interface!r}, which is not an address")


def _check_address(path: str) -> None:
    length = len(path.encode())
    if not 0 < length <= MAX_SOCKET_PATH:
        raise EndpointSyntaxError(
            f"with a path of {length} bytes, while that of a socket has 1 to {MAX_SOCKET_PATH}"
        )


def _one_of(name: str, pattern: str, expected: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        if not re.fullmatch(pattern, value):
            raise EndpointSyntaxError(f"with the {name} {value!r}, which is not {expected}")

    return check


_CHECKS: dict[str, Callable[[str], None]] = {
    "port": _check_port,
    "interface": _check_interface,
    "address": _check_address,
    "backlog": _one_of("backlog", "[0-9]{1,9}", "a number"),
    "mode": _one_of("mode", "[0-7]{3,4}", "an octal mode such as 660"),
    "lockfile": _one_of("lockfile", "[01]", "0 or 1"),
    "domain": _one_of("domain", "INET|INET6|UNIX", "INET, INET6 or UNIX"),
    "index": _one_of("index", "[0-9]{1,4}", "a number"),
    "name": _one_of("name", ".+", "a name"),
}


def endpoint_type(text: str) -> str:
    """Return the type of endpoint that an endpoint string names, valid or not."""
    return text.partition(":")[0]


def private_socket(text: str) -> str:
    """Return the endpoint string for Twisted, in which a unix socket has mode 600 by default."""
    try:
        found = Description.parse(text)
    except EndpointSyntaxError:
        return text
    needs_mode = found.kind == "unix" and "mode" not in found.arguments
    return f"{text}:mode=600" if needs_mode else text


def endpoint_string(parts: tuple[str, ...], arguments: dict[str, str]) -> str:
    """Return the endpoint string of an endpoint that Twisted's parser has split.

    A single escaped part is an endpoint string as a whole. Twisted does not escape equals signs, so
    an escaped ``tcp:0:interface=…`` arrives as an argument with the name ``tcp:0:interface``.
    """
    whole = [*parts, *(f"{name}={value}" for name, value in arguments.items() if ":" in name)]
    head = whole[0] if len(whole) == 1 else ":".join(map(_escaped, whole))
    named = (f"{name}={_escaped(value)}" for name, value in arguments.items() if ":" not in name)
    return ":".join([head, *named])


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace(":", r"\:")


@attrs.frozen
class _Listener:
    """The endpoint of a listener."""

    key: str
    """The configuration key that has it."""
    text: str
    """The endpoint string as written there."""
    found: Description

    def error(self, problem: str, expected: str = "") -> str:
        found = without_secrets(f"found {self.text!r} {problem}")
        return f"{self.key}: {found}, expected {expected or expected_for(self.found.kind)}"


def check_endpoints(settings: ProxySettings) -> None:
    """Check that the endpoint of each listener is valid, usable and unique, without opening it.

    :raises SettingsError: with a sentence for each mistake.
    """
    listeners: list[_Listener] = []
    sentences: list[str] = []
    for key, text, description in _endpoints(settings):
        try:
            listener = _Listener(key, text, Description.parse(description))
        except EndpointSyntaxError as error:
            sentences.append(_syntax_error(key, text, description, error))
        else:
            sentences += _problems(listener, settings)
            sentences += _duplicates(listener, listeners)
            listeners.append(listener)
    sentences += _own_addresses(settings, listeners)
    if sentences:
        raise SettingsError(*sentences)


def _endpoints(settings: ProxySettings) -> Iterator[tuple[str, str, str]]:
    """Yield key, endpoint string, and its part that Twisted parses, for each listener."""
    for key, listener in zip(settings.listener_keys, settings.all_listeners, strict=True):
        yield key, listener.endpoint, listener.description
    if settings.admin is not None:
        yield "admin.listen", settings.admin.listen, settings.admin.listen


def _syntax_error(key: str, text: str, description: str, error: EndpointSyntaxError) -> str:
    hint = r"; a colon within a part is written \:" if "::" in text or "[" in text else ""
    found = without_secrets(f"found {text!r} {error}")
    return f"{key}: {found}, expected {expected_for(endpoint_type(description))}{hint}"


def _problems(listener: _Listener, settings: ProxySettings) -> Iterator[str]:
    is_admin = listener.key == "admin.listen"
    if listener.found.kind in _WITH_TLS:
        without = "one without" if is_admin else "one without, which the proxy adds"
        yield listener.error("with TLS", f"{without}: {expected_for('tcp')}")
    elif is_admin and not _may_be_remote(settings) and not listener.found.is_local:
        yield listener.error("that other hosts can reach", _LOCAL)
    yield from _socket_problems(listener)
    _, _, zone = listener.found.arguments.get("interface", "").partition("%")
    if zone and not _is_zone(zone):
        yield listener.error(f"with the zone {zone!r}, which is not a network interface here")


def _may_be_remote(settings: ProxySettings) -> bool:
    return settings.admin is not None and settings.admin.allow_remote


_LOCAL = (
    "unix:/path or tcp:9443:interface=127.0.0.1; "
    "allow-remote = true permits other addresses, where anyone can read it"
)


def _socket_problems(listener: _Listener) -> Iterator[str]:
    path = listener.found.arguments.get("address", "")
    if path.startswith("~"):
        yield listener.error("with ~, which only a shell expands", "the whole path")
    elif os.path.isdir(path):  # noqa: PTH112 - False if the path cannot be examined
        yield listener.error("which is a folder", "the path of a socket")
    elif os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH110, PTH116
        yield listener.error("which is a file", "the path of a socket")


def _is_zone(zone: str) -> bool:
    try:
        if zone.isdecimal():
            socket.if_indextoname(int(zone))
        else:
            socket.if_nametoindex(zone)
    except (OSError, OverflowError):
        return False
    return True


def _duplicates(listener: _Listener, others: list[_Listener]) -> Iterator[str]:
    for other in others:
        if _overlap(listener.found.address, other.found.address):
            expected = f"another address than that of {other.key}, {without_secrets(other.text)!r}"
            yield f"{listener.key}: found {without_secrets(listener.text)!r}, expected {expected}"
            return


def _own_addresses(settings: ProxySettings, listeners: list[_Listener]) -> Iterator[str]:
    """Yield a sentence for each back end that is a listener of this proxy: a loop."""
    for url in settings.backend:
        try:
            address = _address_of(Backend.parse(url))
        except SettingsError:
            continue  # reported when the back ends are read
        for listener in listeners:
            if _leads_to(address, listener.found.address):
                found = f"{without_secrets(url)!r}, which is {listener.key} of this proxy"
                yield f"backend: found {found}, expected the address of another server"


def _address_of(backend: Backend) -> tuple[str, ...]:
    """Return a back end's address, as :attr:`Description.address`."""
    if backend.scheme is Scheme.UNIX:
        return ("unix", os.path.abspath(backend.path))  # noqa: PTH100 - as for the listener
    host = "127.0.0.1" if backend.host == "localhost" else backend.host
    return ("tcp", str(backend.port), host)


def _leads_to(address: tuple[str, ...], listener: tuple[str, ...]) -> bool:
    """Return True for a listener's own address, or a loopback address that a wildcard covers."""
    if address[0] != "tcp" or not _is_loopback(address[2]):
        return address == listener
    return _overlap(address, listener)


def socket_paths(settings: ProxySettings) -> Iterator[tuple[str, str]]:
    """Yield the key and the path of each unix socket that a listener creates."""
    for key, _, description in _endpoints(settings):
        try:
            path = Description.parse(description).arguments.get("address", "")
        except EndpointSyntaxError:
            continue
        if path:
            yield key, path


def endpoint_warnings(settings: ProxySettings, made: Collection[str] = ()) -> Iterator[str]:
    """Yield a warning for each unix socket whose path is relative, or that cannot be created.

    They are not errors: another program may create the folder at the start. ``made``: folders that
    systemd makes at the start.
    """
    for key, path in socket_paths(settings):
        folder = os.path.dirname(path)  # noqa: PTH120 - splits as the system does
        if not path.startswith("/"):
            yield (
                f"{key}: found a path relative to the folder that the proxy starts in, "
                "expected an absolute one"
            )
        elif folder in made:
            continue
        elif not os.path.isdir(folder):  # noqa: PTH112 - False if the path cannot be examined
            yield (
                f"{key}: found no folder {without_secrets(folder)}, expected it at the start, "
                "for example from RuntimeDirectory="
            )
        elif not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            yield (
                f"{key}: found no right to create a socket in {without_secrets(folder)}, "
                "expected a folder of this user"
            )


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    if not one or one[:2] != other[:2] or one[0] != "tcp":
        return bool(one) and one == other
    return one == other or _covers(one[2], other[2]) or _covers(other[2], one[2])


def _covers(wildcard: str, interface: str) -> bool:
    if wildcard == "::":
        return ":" in interface or _accepts_ipv4_on_ipv6()
    return wildcard == _ANY_IPV4 and not _is_ipv6(interface)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_ipv6(interface: str) -> bool:
    try:
        return ipaddress.ip_address(interface).version == 6
    except ValueError:
        return False


def _accepts_ipv4_on_ipv6() -> bool:
    try:
        return _BIND_V6_ONLY.read_text().strip() == "0"
    except OSError:
        return False
