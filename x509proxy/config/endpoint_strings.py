r"""Descriptions of endpoints, taken apart without Twisted: each mistake is one sentence, before anything is listened at.

Facts
-----
* In a description ``:`` ends a part and a part's first ``=`` its name, unless there is ``\`` before it
  (``twisted.internet.endpoints``). Other kinds of endpoints than these here come from plug-ins, and are judged by them.
* Twisted leaves ``IPV6_V6ONLY`` to the system: where Linux's ``net.ipv6.bindv6only`` is 0, ``::`` takes IPv4 too.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from x509proxy.redaction import without_secrets
from x509proxy.schema import ProxySettings
from x509proxy.settings import SettingsError

__all__ = [
    "KINDS",
    "Description",
    "EndpointSyntaxError",
    "check_places",
    "expected_for",
    "missing_folders",
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
_LONGEST_PATH = 107  # unix(7): sun_path
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

        :raises Fault: it describes no endpoint.
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
    if not 0 < len(path.encode()) <= _LONGEST_PATH:
        raise EndpointSyntaxError(
            f"with a path of {len(path.encode())} bytes, which a socket's has 1 to {_LONGEST_PATH} of"
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


def check_places(settings: ProxySettings) -> None:
    """Whether each place to listen at can be understood, and is no other's too. Nothing is opened.

    :raises SettingsError: one cannot, or two are the same.
    """
    taken: list[tuple[str, str, tuple[str, ...]]] = []
    for key, text, found in _described(settings):
        for other, described, where in taken:
            if _overlap(found.where, where):
                second = f"another place than that of {other}, {without_secrets(described)!r}"
                raise SettingsError(f"{key}: found {without_secrets(text)!r}, expected {second}")
        taken.append((key, text, found.where))


def missing_folders(settings: ProxySettings) -> Iterator[str]:
    """A sentence for each unix socket whose folder is not there: it may be made by whatever starts the proxy, or by nobody."""
    for key, _, found in _described(settings):
        folder = os.path.dirname(found.arguments.get("address", ""))  # noqa: PTH120 - as the system splits it
        if folder and not os.path.isdir(folder):  # noqa: PTH112 - false for what cannot be looked at
            yield f"{key}: no folder {without_secrets(folder)} is there; the start fails unless RuntimeDirectory= or so makes it"


def _described(settings: ProxySettings) -> Iterator[tuple[str, str, Description]]:
    for key, place in zip(settings.place_keys, settings.places, strict=True):
        found = _understood(key, place.endpoint, place.endpoint.removeprefix("haproxy:"))
        if found.kind in _WITH_TLS:
            expected = f"one without, which the proxy adds: {expected_for('tcp')}"
            raise SettingsError(
                f"{key}: found {without_secrets(place.endpoint)!r} with TLS, expected {expected}"
            )
        yield key, place.endpoint, found
    if settings.admin is not None:
        yield (
            "admin.listen",
            settings.admin.listen,
            _understood("admin.listen", settings.admin.listen, settings.admin.listen),
        )


def _understood(key: str, text: str, description: str) -> Description:
    try:
        return Description.parse(description)
    except EndpointSyntaxError as fault:
        hint = r"; a colon within a part is written \:" if "::" in text or "[" in text else ""
        expected = expected_for(description.partition(":")[0])
        told = without_secrets(f"found {text!r} {fault}")
        raise SettingsError(f"{key}: {told}, expected {expected}{hint}") from None


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
