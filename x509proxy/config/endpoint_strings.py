r"""Descriptions of endpoints: the only parser of them, without Twisted, and the checks of the places to listen at.

Each mistake is one sentence, before any socket is opened.

Facts
-----
* In a description ``:`` ends a part and a part's first ``=`` its name, unless there is ``\`` before it
  (``twisted.internet.endpoints``). Other kinds of endpoints than these here come from plug-ins, and are judged by them.
* Twisted gives a unix socket mode 666 unless its description has a ``mode``.
* Twisted leaves ``IPV6_V6ONLY`` to the system: where Linux's ``net.ipv6.bindv6only`` is 0, ``::`` takes IPv4 too.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from x509proxy.redaction import without_secrets
from x509proxy.settings import MAX_SOCKET_PATH, ProxySettings, SettingsError

__all__ = [
    "KINDS",
    "Description",
    "EndpointSyntaxError",
    "check_places",
    "described_with",
    "expected_for",
    "kind_of",
    "place_warnings",
    "private_socket",
    "socket_paths",
]

KINDS = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "backlog", "interface"),
    "unix": ("address", "mode", "backlog", "lockfile"),
    "systemd": ("domain", "index", "name"),
}
"""The arguments of each kind, in the order that they have without names."""
_FORMS = {
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
    """What is wrong with a description, in words that stand behind it."""


def expected_for(kind: str = "") -> str:
    """What could have been written, for the end of a sentence."""
    return (
        _FORMS.get(kind)
        or "tcp:8443, tcp:8443:interface=127.0.0.1, tcp6:8443, unix:/path or systemd:domain=INET:name=NAME"
    )


@attrs.frozen
class Description:
    """One endpoint. ``arguments``: by name; empty for a kind that is not one of ours."""

    kind: str
    arguments: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Description:
        """Take it apart, and look at every part.

        :raises EndpointSyntaxError: it describes no endpoint.
        """
        positional, named = _parts(text)
        kind, *values = positional or [""]
        if not _KIND.fullmatch(kind):
            raise EndpointSyntaxError("without the kind of endpoint that it is")
        if kind not in KINDS:
            return cls(kind, {})
        arguments = _arguments(KINDS[kind], values, named)
        if kind == "systemd" and ("index" in arguments) is ("name" in arguments):
            raise EndpointSyntaxError("with neither or both of index and name")
        return cls(kind, arguments)

    @property
    def is_local(self) -> bool:
        """Return whether this host alone can connect: a unix socket, or a loopback address."""
        if self.kind == "unix":
            return True
        try:
            return ipaddress.ip_address(self.arguments.get("interface", "")).is_loopback
        except ValueError:
            return False

    @property
    def where(self) -> tuple[str, ...]:
        """What no other endpoint can have: empty if that cannot be told."""
        if self.kind in ("tcp", "tcp6"):
            port = int(self.arguments["port"])
            interface = self.arguments.get("interface") or (
                "::" if self.kind == "tcp6" else _ANY_IPV4
            )
            return (
                ("tcp", str(port), "127.0.0.1" if interface == "localhost" else interface)
                if port
                else ()
            )
        if self.kind == "unix":
            return ("unix", os.path.abspath(self.arguments["address"]))  # noqa: PTH100 - without looking at links
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
        # It has escaped the colon that was put there.
        raise EndpointSyntaxError("with a backslash at its end")
    return positional, named


def _arguments(names: tuple[str, ...], values: list[str], named: dict[str, str]) -> dict[str, str]:
    """All of them by name, each looked at; the first one of ``names`` has to be there."""
    if len(values) > len(names):
        raise EndpointSyntaxError("with a part too many")
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
        raise EndpointSyntaxError(f"with the port {port!r}, which is none from 0 to 65535")


def _check_interface(interface: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9._-]*|[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?", interface):
        raise EndpointSyntaxError(f"with the interface {interface!r}, which is no address")


def _check_address(path: str) -> None:
    if not 0 < len(path.encode()) <= MAX_SOCKET_PATH:
        raise EndpointSyntaxError(
            f"with a path of {len(path.encode())} bytes, which a socket's has 1 to {MAX_SOCKET_PATH} of"
        )


def _one_of(name: str, pattern: str, kind: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        if not re.fullmatch(pattern, value):
            raise EndpointSyntaxError(f"with the {name} {value!r}, which is no {kind}")

    return check


_CHECKS: dict[str, Callable[[str], None]] = {
    "port": _check_port,
    "interface": _check_interface,
    "address": _check_address,
    "backlog": _one_of("backlog", "[0-9]{1,9}", "number"),
    "mode": _one_of("mode", "[0-7]{3,4}", "octal mode such as 660"),
    "lockfile": _one_of("lockfile", "[01]", "0 or 1"),
    "domain": _one_of("domain", "INET|INET6|UNIX", "INET, INET6 or UNIX"),
    "index": _one_of("index", "[0-9]{1,4}", "number"),
    "name": _one_of("name", ".+", "name"),
}


def kind_of(text: str) -> str:
    """Return the kind of endpoint that a description names, well formed or not."""
    return text.partition(":")[0]


def private_socket(text: str) -> str:
    """Return the description for Twisted: a unix socket is its owner's alone unless it has a ``mode``."""
    try:
        found = Description.parse(text)
    except EndpointSyntaxError:
        return text
    needs_mode = found.kind == "unix" and "mode" not in found.arguments
    return f"{text}:mode=600" if needs_mode else text


def described_with(parts: tuple[str, ...], arguments: dict[str, str]) -> str:
    """Return the description of an endpoint that Twisted's parser has taken apart: one escaped part stands for itself.

    Twisted leaves equals signs alone: an escaped ``tcp:0:interface=…`` arrives as an argument of the name ``tcp:0:interface``.
    """
    whole = [*parts, *(f"{name}={value}" for name, value in arguments.items() if ":" in name)]
    head = whole[0] if len(whole) == 1 else ":".join(map(_quoted, whole))
    named = (f"{name}={_quoted(value)}" for name, value in arguments.items() if ":" not in name)
    return ":".join([head, *named])


def _quoted(text: str) -> str:
    return text.replace("\\", r"\\").replace(":", r"\:")


@attrs.frozen
class _Listening:
    """One place to listen at. ``key``: in the document; ``text``: as it was written."""

    key: str
    text: str
    found: Description

    def error(self, problem: str, expected: str = "") -> str:
        told = without_secrets(f"found {self.text!r} {problem}")
        return f"{self.key}: {told}, expected {expected or expected_for(self.found.kind)}"


def check_places(settings: ProxySettings) -> None:
    """Check that each place to listen at can be understood and used, and is no other's too. Nothing is opened.

    :raises SettingsError: with a sentence for each mistake.
    """
    places: list[_Listening] = []
    sentences: list[str] = []
    for key, text, description in _written(settings):
        try:
            place = _Listening(key, text, Description.parse(description))
        except EndpointSyntaxError as error:
            sentences.append(_syntax_error(key, text, description, error))
        else:
            sentences += _place_problems(place, settings)
            sentences += _same_as(place, places)
            places.append(place)
    if sentences:
        raise SettingsError(*sentences)


def _written(settings: ProxySettings) -> Iterator[tuple[str, str, str]]:
    """Yield key, text as written, and Twisted's part of it, for each place to listen at."""
    for key, place in zip(settings.place_keys, settings.places, strict=True):
        yield key, place.endpoint, place.description
    if settings.admin is not None:
        yield "admin.listen", settings.admin.listen, settings.admin.listen


def _syntax_error(key: str, text: str, description: str, error: EndpointSyntaxError) -> str:
    hint = r"; a colon within a part is written \:" if "::" in text or "[" in text else ""
    told = without_secrets(f"found {text!r} {error}")
    return f"{key}: {told}, expected {expected_for(kind_of(description))}{hint}"


def _place_problems(place: _Listening, settings: ProxySettings) -> Iterator[str]:
    is_admin = place.key == "admin.listen"
    if place.found.kind in _WITH_TLS:
        without = "one without" if is_admin else "one without, which the proxy adds"
        yield place.error("with TLS", f"{without}: {expected_for('tcp')}")
    elif is_admin and not _may_be_remote(settings) and not place.found.is_local:
        yield place.error("that other hosts can reach", _LOCAL)
    yield from _socket_problems(place)
    _, _, zone = place.found.arguments.get("interface", "").partition("%")
    if zone and not _is_zone(zone):
        yield place.error(f"with the zone {zone!r}, which is no network interface here")


def _may_be_remote(settings: ProxySettings) -> bool:
    return settings.admin is not None and settings.admin.allow_remote


_LOCAL = "unix:/path or tcp:9443:interface=127.0.0.1; allow-remote = true is for other places, where everybody can read it"


def _socket_problems(place: _Listening) -> Iterator[str]:
    path = place.found.arguments.get("address", "")
    if path.startswith("~"):
        yield place.error("with ~, which only a shell replaces", "the whole path")
    elif os.path.isdir(path):  # noqa: PTH112 - false for what cannot be looked at
        yield place.error("which is a folder", "the path of a socket")
    elif os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH110, PTH116
        yield place.error("which is a file", "the path of a socket")


def _is_zone(zone: str) -> bool:
    try:
        if zone.isdecimal():
            socket.if_indextoname(int(zone))
        else:
            socket.if_nametoindex(zone)
    except (OSError, OverflowError):
        return False
    return True


def _same_as(place: _Listening, others: list[_Listening]) -> Iterator[str]:
    for other in others:
        if _overlap(place.found.where, other.found.where):
            second = f"another place than that of {other.key}, {without_secrets(other.text)!r}"
            yield f"{place.key}: found {without_secrets(place.text)!r}, expected {second}"
            return


def socket_paths(settings: ProxySettings) -> Iterator[tuple[str, str]]:
    """Yield the key and the path of each unix socket to listen at."""
    for key, _, description in _written(settings):
        try:
            path = Description.parse(description).arguments.get("address", "")
        except EndpointSyntaxError:
            continue
        if path:
            yield key, path


def place_warnings(settings: ProxySettings) -> Iterator[str]:
    """Yield a sentence for each unix socket whose path is relative, or whose folder is missing: the start may create it."""
    for key, path in socket_paths(settings):
        folder = os.path.dirname(path)  # noqa: PTH120 - as the system splits it
        if not path.startswith("/"):
            yield f"{key}: found a relative path, which is taken from the folder that the proxy starts in, expected a whole one"
        elif not os.path.isdir(folder):  # noqa: PTH112 - false for what cannot be looked at
            yield f"{key}: no folder {without_secrets(folder)} is there; the start fails unless RuntimeDirectory= or so makes it"


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    if not one or one[:2] != other[:2] or one[0] != "tcp":
        return bool(one) and one == other
    return one == other or _covers(one[2], other[2]) or _covers(other[2], one[2])


def _covers(wildcard: str, interface: str) -> bool:
    if wildcard == "::":
        return ":" in interface or _takes_both()
    return wildcard == _ANY_IPV4 and not _is_ipv6(interface)


def _is_ipv6(interface: str) -> bool:
    try:
        return ipaddress.ip_address(interface).version == 6
    except ValueError:
        return False


def _takes_both() -> bool:
    try:
        return _BIND_V6_ONLY.read_text().strip() == "0"
    except OSError:
        return False
