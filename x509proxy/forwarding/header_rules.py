"""The headers that identify the client to the back end: the preset's, and those of ``[[headers]]``.

Facts
-----
* A secret name stops a client that reaches the back end past the proxy. The real protection is that
  there is no other way to it (RFC 9440 section 4: "only accessible through a secure channel").
* To change a secret name, the proxy first sends both the old and the new one. Then the server is
  configured with the new one, and last the old one is removed from the file. The server reads one
  of them at any time, and a client can forge neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.certificates.config_files import FileReader, read_file, read_line
from x509proxy.forwarding.certificate_formats import encode, is_value
from x509proxy.forwarding.presets import HeaderPlan, Preset, find_preset
from x509proxy.forwarding.secret_name import check_header_name, read_header_names, secret_part
from x509proxy.http1.errors import Code, ErrorResponse, HttpError
from x509proxy.http1.fields import FOLD_TABLE, Pairs, alphanumerics, fold
from x509proxy.redaction import without_secrets
from x509proxy.settings import Format, HeaderSettings, ProxySettings, SettingsError

__all__ = [
    "HeaderRules",
    "contains_secret",
    "header_fields",
    "identity",
    "read_rules",
    "redact",
]


@attrs.frozen(cache_hash=True)
class HeaderRules:
    """The headers that identify the client.

    ``plans``: the headers to send, each with its name. ``secrets``: the secret parts of names and
    values, folded. ``folds``: the folded names, whose fields are removed from clients' requests.
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
        """Return the headers of a preset; ``names``, if there are any, replace the first one's."""
        first, rest = preset.plans[:1], preset.plans[1:]
        named = tuple(attrs.evolve(plan, name=name) for plan in first for name in names)
        return cls(
            (*(named or first), *rest),
            tuple(secret_part(name) for name in names),
        )


def identity(certificate: ClientCertificate | None, rules: HeaderRules) -> Pairs:
    """Return the fields that forward the certificate, or that report that there is none.

    :raises HttpError: 400, the certificate is larger than the back end accepts.
    """
    return tuple(pair for plan in rules.plans for pair in header_fields(certificate, plan))


def header_fields(certificate: ClientCertificate | None, plan: HeaderPlan) -> Pairs:
    """Return the fields of one plan, which may be none.

    :raises HttpError: as :func:`identity`.
    """
    if plan.form is Format.LITERAL:
        return ((plan.name, plan.value),)
    if plan.form is Format.TOKEN_CLAIMS:
        # Added after the check of the token: x509proxy.forwarding.token_claims.
        return ()
    pairs = encode(certificate, plan.form, plan.name, plan.chain_index)
    size = sum(len(value) for _, value in pairs)
    if plan.maximum and size > plan.maximum:
        text = (
            f"The client certificate is too large: its header would have {size} bytes, "
            f"{plan.maximum} allowed"
        )
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
    """Return true if the text contains a secret, in any spelling."""
    if not rules.secrets:
        return False
    letters = alphanumerics(text)
    for secret in rules.secret_letters:  # noqa: SIM110 - a generator costs more than the search
        if secret in letters:
            return True
    return False


def redact(text: str, rules: HeaderRules) -> str:
    """Replace the secrets in a log line by ``...``, in any spelling; the line is ASCII.

    A client chooses text that the line repeats.
    """
    for secret in rules.secrets:
        while (start := text.encode("ascii").translate(FOLD_TABLE).find(secret)) >= 0:
            text = f"{text[:start]}...{text[start + len(secret) :]}"
    return text


# Reading of the settings.


def read_rules(settings: ProxySettings, read: FileReader = read_file) -> HeaderRules:
    """Return the headers of the preset and of ``[[headers]]``.

    One of ``[[headers]]`` replaces a header of the preset with the same name.

    :raises SettingsError: a name is missing, invalid or duplicate; or a file cannot be read.
    """
    preset = find_preset(without_secrets(settings.preset))
    named = HeaderRules.for_preset(preset, *_names(settings, preset, read))
    own = tuple(
        _ConfiguredHeader(header, f"headers[{at}]", read).plan()
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
                "header-file: found none, expected a file with the secret header name "
                f"for preset {preset.name}"
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
            "headers: found none, expected one or more, since preset "
            f"{preset.name} has none of its own"
        )
    folds = [fold(name) for name in names]
    if len(set(folds)) < len(folds):
        raise SettingsError(
            "headers: found a name twice, expected each once; "
            "upper and lower case, - and _ make no difference"
        )


def _secrets(settings: ProxySettings, own: tuple[HeaderPlan, ...]) -> Iterator[bytes]:
    for header, plan in zip(settings.headers, own, strict=True):
        if header.name_file is not None:
            yield secret_part(plan.name)
        if header.value_file is not None:
            yield fold(plan.value)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}")
# Fields that clients send for other purposes, or that the proxy writes itself. None can carry a
# certificate, since the client's own field would have to be removed.
_ORDINARY = frozenset(
    {
        "authorization", "cache-control", "connection", "cookie", "date", "dpop", "expect",
        "forwarded", "from", "host", "keep-alive", "origin", "pragma", "prefer", "priority",
        "proxy-authorization", "proxy-connection", "range", "referer", "te", "trailer",
        "transfer-encoding", "upgrade", "upgrade-insecure-requests", "user-agent", "via",
        "x-request-id", "x-requested-with", "x-forwarded-for", "x-forwarded-host",
        "x-forwarded-port", "x-forwarded-proto", "signature", "signature-input", "traceparent",
        "tracestate", "http2-settings", "proxy",
    }
)  # fmt: skip
_MIN_SECRET_CHARS = 16
_ORDINARY_PREFIXES = ("accept", "content-", "if-", "access-control-", "sec-fetch-", "sec-ch-")
# Certificates have a limit of their own, claims have none. Tomcat and Jetty accept a head of 8 KiB.
_MAX_VALUE_BYTES = {Format.TOKEN_CLAIMS: 8192}
_WITH_CHAIN_INDEX = frozenset(
    {Format.PEM, Format.PEM_SPACES, Format.PEM_URL, Format.BASE64_DER, Format.RFC9440}
)


@attrs.frozen
class _ConfiguredHeader:
    """One of ``[[headers]]``; ``where`` is its name in error sentences."""

    settings: HeaderSettings = attrs.field(repr=False)
    where: str
    read: FileReader

    def plan(self) -> HeaderPlan:
        settings = self.settings
        if settings.chain_index > 1 and settings.format not in _WITH_CHAIN_INDEX:
            raise SettingsError(
                f"{self.where}.chain-index: found {settings.chain_index}, "
                f"expected 1 for format {settings.format.value}"
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
                "a name without another use, of letters, digits, - and _",
            )
        return name.encode("ascii")

    def _value(self) -> bytes:
        value, path = self.settings.value, self.settings.value_file
        if self.settings.format is not Format.LITERAL:
            if value is not None or path is not None:
                key = "value" if path is None else "value-file"
                raise self._error(key, "one", f"none for format {self.settings.format.value}")
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
        if len(alphanumerics(text)) < _MIN_SECRET_CHARS:
            # The value is removed from responses wherever it occurs. A short one would remove
            # harmless fields too.
            raise self._error(
                "value-file",
                "a short secret",
                f"one with {_MIN_SECRET_CHARS} or more letters and digits",
            )
        return text

    def _text(self, text: str) -> bytes:
        value = text.encode("utf-8")
        if not is_value(value):
            raise self._error(
                "value",
                "an empty value, or one with other characters",
                "visible ASCII",
            )
        return value

    def _error(self, key: str, found: str, expected: str) -> SettingsError:
        return SettingsError(f"{self.where}.{key}: found {found}, expected {expected}")
