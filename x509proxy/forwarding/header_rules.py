"""Which headers tell the back end who the client is: the preset's, the administrator's own, and what may be told of their names.

Facts
-----
* A secret name keeps those out who reach the back end on another way; what really protects it is that there is none
  (RFC 9440 section 4: "only accessible through a secure channel").
* While a secret name changes, both are sent: first the proxy sends the old and the new, then the server is told the new one, then
  the old is taken out of the file. The server reads one of them at any time, and a client can forge neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.certificates.config_files import FileReader, read_file
from x509proxy.certificates.pem_files import (
    check_header_name,
    read_header_names,
    read_line,
    without_secrets,
)
from x509proxy.forwarding.certificate_formats import encode, is_value
from x509proxy.forwarding.presets import HeaderPlan, Preset, find_preset
from x509proxy.http1.errors import Code, ErrorResponse, HttpError
from x509proxy.http1.fields import FOLD_TABLE, Pairs, alphanumerics, fold
from x509proxy.settings import Format, HeaderSettings, ProxySettings, SettingsError

__all__ = [
    "HeaderRules",
    "contains_secret",
    "header_fields",
    "identity",
    "read_rules",
    "redact",
]

# What everybody knows of a secret name (material.new_header_name); the rest alone is as secret as the whole.
_KNOWN = b"sec-client-x509-cert-"


@attrs.frozen(cache_hash=True)
class HeaderRules:
    """The headers that say who the client is. ``plans``: what is sent, every name filled in.

    ``secrets``: what nobody may learn of the chosen names, folded; ``folds``: no field of a client's with such a name passes.
    """

    plans: tuple[HeaderPlan, ...] = attrs.field(repr=False)
    secrets: tuple[bytes, ...] = attrs.field(default=(), repr=False)
    folds: frozenset[bytes] = attrs.field(
        init=False,
        repr=False,
        default=attrs.Factory(
            lambda self: frozenset(fold(p.name) for p in self.plans), takes_self=True
        ),
    )
    secret_letters: tuple[bytes, ...] = attrs.field(
        init=False,
        repr=False,
        default=attrs.Factory(
            lambda self: tuple(map(alphanumerics, self.secrets)), takes_self=True
        ),
    )

    @classmethod
    def for_preset(cls, preset: Preset, *names: bytes) -> HeaderRules:
        """The preset's headers; the first of them under the administrator's ``names``, if there are any (:class:`Naming`)."""
        first, rest = preset.plans[:1], preset.plans[1:]
        named = tuple(attrs.evolve(plan, name=name) for plan in first for name in names)
        return cls(
            (*(named or first), *rest), tuple(fold(name).removeprefix(_KNOWN) for name in names)
        )


def identity(certificate: ClientCertificate | None, rules: HeaderRules) -> Pairs:
    """Return the pairs that pass the certificate on, or that report that there is none.

    :raises HttpError: 400, the certificate is larger than this server takes.
    """
    return tuple(pair for plan in rules.plans for pair in header_fields(certificate, plan))


def header_fields(certificate: ClientCertificate | None, plan: HeaderPlan) -> Pairs:
    """Encode the field of one plan; none where there is nothing to send.

    :raises HttpError: as :func:`identity`.
    """
    if plan.form is Format.LITERAL:
        return ((plan.name, plan.value),)
    if plan.form is Format.TOKEN_CLAIMS:
        # Written when the token has been checked: x509proxy.forwarding.token_claims.
        return ()
    pairs = encode(certificate, plan.form, plan.name, plan.place)
    size = sum(len(value) for _, value in pairs)
    if plan.maximum and size > plan.maximum:
        text = f"The client certificate is too large: its header would have {size} bytes, {plan.maximum} allowed"
        raise HttpError(
            ErrorResponse(
                Code.CERTIFICATE_TOO_LARGE,
                f"certificate header of {size} bytes",
                text,
                "invalid_client",
            )
        )
    return pairs


def contains_secret(text: bytes, rules: HeaderRules) -> bool:
    """Whether a secret stands in the text, in any spelling."""
    if not rules.secrets:
        return False
    letters = alphanumerics(text)
    for secret in rules.secret_letters:  # noqa: SIM110 - a generator costs more than the search
        if secret in letters:
            return True
    return False


def redact(text: str, rules: HeaderRules) -> str:
    """A line for a log, in ASCII, with ``...`` for the secret name in any spelling: what it repeats is of a client's choosing."""
    for secret in rules.secrets:
        while (place := text.encode("ascii").translate(FOLD_TABLE).find(secret)) >= 0:
            text = f"{text[:place]}...{text[place + len(secret) :]}"
    return text


# From the document.


def read_rules(settings: ProxySettings, read: FileReader = read_file) -> HeaderRules:
    """The preset's headers and the administrator's own: one of these takes the place of the preset's that has its name.

    :raises SettingsError: a name is missing, unfit, or there twice; a file cannot be read.
    """
    preset = find_preset(without_secrets(settings.preset))
    named = HeaderRules.for_preset(preset, *_names(settings, preset, read))
    own = tuple(
        _OwnHeader(header, f"headers[{at}]", read).plan()
        for at, header in enumerate(settings.headers)
    )
    taken = {fold(plan.name) for plan in own}
    plans = (*(plan for plan in named.plans if fold(plan.name) not in taken), *own)
    _check_names([plan.name for plan in plans], preset)
    return HeaderRules(plans, (*named.secrets, *_secrets(settings, own)))


def _names(settings: ProxySettings, preset: Preset, read: FileReader) -> tuple[bytes, ...]:
    header, path = settings.header, settings.header_file
    if header is not None and path is not None:
        raise SettingsError("header-file: found both header-file and header, expected one of them")
    if header is None and path is None:
        if preset.needs_name:
            raise SettingsError(
                f"header-file: found none, expected a file with the secret header name for preset {preset.name}"
            )
        return ()
    if not preset.takes_name:
        key = "header" if path is None else "header-file"
        raise SettingsError(
            f"{key}: found one, expected none, since preset {preset.name} has fixed header names"
        )
    return (
        read_header_names(path, read)
        if path is not None
        else (check_header_name(header or "", "header"),)
    )


def _check_names(names: list[bytes], preset: Preset) -> None:
    if not names:
        raise SettingsError(
            f"headers: found none, expected one or more, since preset {preset.name} has none of its own"
        )
    folds = [fold(name) for name in names]
    if len(set(folds)) < len(folds):
        raise SettingsError(
            "headers: found a name twice, expected each once; upper and lower case, - and _ make no difference"
        )


def _secrets(settings: ProxySettings, own: tuple[HeaderPlan, ...]) -> Iterator[bytes]:
    for header, plan in zip(settings.headers, own, strict=True):
        if header.name_file is not None:
            yield fold(plan.name).removeprefix(_KNOWN)
        if header.value_file is not None:
            yield fold(plan.value)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}")
# What a request has for reasons of its own, or the proxy writes itself: under such a name nothing can be told of a certificate,
# since the client's own field would have to go.
_ORDINARY = frozenset(
    {
        "authorization", "cache-control", "connection", "cookie", "date", "dpop", "expect", "forwarded", "from", "host",
        "keep-alive", "origin", "pragma", "prefer", "priority", "proxy-authorization", "proxy-connection", "range", "referer",
        "te", "trailer", "transfer-encoding", "upgrade", "upgrade-insecure-requests", "user-agent", "via", "x-request-id",
        "x-requested-with", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "signature",
        "signature-input", "traceparent", "tracestate", "http2-settings", "proxy",
    }
)  # fmt: skip
_ORDINARY_PREFIXES = ("accept", "content-", "if-", "access-control-", "sec-fetch-", "sec-ch-")
# A certificate has a limit of its own; claims do not. Tomcat and Jetty take a head of 8 KiB in all.
_MAX_VALUE_BYTES = {Format.TOKEN_CLAIMS: 8192}
_WITH_PLACE = frozenset(
    {Format.PEM, Format.PEM_SPACES, Format.PEM_URL, Format.BASE64_DER, Format.RFC9440}
)


@attrs.frozen
class _OwnHeader:
    """One of the document's ``[[headers]]``; ``where``: for the sentences."""

    settings: HeaderSettings = attrs.field(repr=False)
    where: str
    read: FileReader

    def plan(self) -> HeaderPlan:
        settings = self.settings
        if settings.chain_index > 1 and settings.format not in _WITH_PLACE:
            raise SettingsError(
                f"{self.where}.chain-index: found {settings.chain_index}, expected 1 for format {settings.format.value}"
            )
        return HeaderPlan(
            settings.format,
            self._name(),
            settings.chain_index,
            settings.max_value_bytes or _MAX_VALUE_BYTES.get(settings.format, 0),
            self._value(),
        )

    def _name(self) -> bytes:
        name, path = self.settings.name, self.settings.name_file
        if (name is None) is (path is None):
            raise self._error(
                "name", f"{'neither' if name is None else 'both'} name and name-file", "one of them"
            )
        if path is not None:
            return check_header_name(
                read_line(path, f"{self.where}.name-file", self.read), f"{self.where}.name-file"
            )
        return self._plain_name(name or "")

    def _plain_name(self, name: str) -> bytes:
        folded = fold(name.encode("utf-8")).decode("ascii")
        if (
            not _NAME.fullmatch(name)
            or folded in _ORDINARY
            or folded.startswith(_ORDINARY_PREFIXES)
        ):
            raise self._error(
                "name",
                repr(without_secrets(name)),
                "a header of its own, of letters, digits, - and _",
            )
        return name.encode("ascii")

    def _value(self) -> bytes:
        value, path = self.settings.value, self.settings.value_file
        if self.settings.format is not Format.LITERAL:
            if value is not None or path is not None:
                raise self._error("value", "one", f"none for format {self.settings.format.value}")
            return b""
        if (value is None) is (path is None):
            raise self._error(
                "value",
                f"{'neither' if value is None else 'both'} value and value-file",
                "one of them",
            )
        return self._text(value or "") if path is None else self._secret_text(path)

    def _secret_text(self, path: str) -> bytes:
        text = self._text(read_line(path, f"{self.where}.value-file", self.read))
        if len(alphanumerics(text)) < _SHORTEST_SECRET:
            # It is taken out of answers wherever it stands: a short one would take harmless fields with it.
            raise self._error(
                "value-file",
                "a short secret",
                f"one with {_SHORTEST_SECRET} or more letters and digits",
            )
        return text

    def _text(self, text: str) -> bytes:
        value = text.encode("utf-8")
        if not is_value(value):
            raise self._error(
                "value",
                "an empty text, or one with other than visible ASCII characters",
                "visible ASCII",
            )
        return value

    def _error(self, key: str, found: str, expected: str) -> SettingsError:
        return SettingsError(f"{self.where}.{key}: found {found}, expected {expected}")


_SHORTEST_SECRET = 16
