"""Token check: one request's access token, from the head to a verdict."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred

from x509proxy.authorization.token_cache import Key, TokenCache
from x509proxy.authorization.token_contents import TokenContents
from x509proxy.authorization.verifiers import JwtVerifier, Verifier, make_verifier
from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.config.token_files import TokenFiles
from x509proxy.exchange import TokenVerdict
from x509proxy.forwarding.bound_tokens import (
    Scheme,
    authorization_of,
    check_binding,
    check_certificate,
    check_missing,
    read_credentials,
    rejected,
)
from x509proxy.forwarding.token_claims import CheckedToken
from x509proxy.http1.errors import Code, HttpError
from x509proxy.http1.messages import RequestHead
from x509proxy.monitoring.snapshot import TokenState
from x509proxy.redaction import without_secrets
from x509proxy.settings import TokenRequirement, TokenSettings
from x509proxy.transport.ip_address import UNKNOWN, subscriber

__all__ = ["TokenCheck", "TokenChecker"]

_DPOP = TokenVerdict.DPOP
_REJECTED_SHARE = 8
_MAX_REJECTED_BYTES = 1 << 20


class TokenChecker(Protocol):
    """A judge of access tokens."""

    def check(
        self,
        head: RequestHead,
        certificate: ClientCertificate | None,
        requirement: TokenRequirement,
        now: float,
        peer: str,
    ) -> CheckedToken | Deferred[CheckedToken]:
        """Judge the token of a request; ``certificate``: the one that its client has shown.

        ``peer``: the client's address, as in :class:`~x509proxy.forwarding.client.Hop`.

        :raises HttpError: the request must not reach a back end. A Deferred fails with it.
        """


@attrs.frozen
class _Known:
    """The facts about a token that came in this field: its scheme is one of them."""

    contents: TokenContents
    scheme: Scheme
    since: float

    @property
    def expires(self) -> float:
        """The end of the contents."""
        return self.contents.expires

    @property
    def size(self) -> int:
        """The octets that it keeps beside a fixed number."""
        rejection = self.contents.rejection
        return len(self.contents.claims) + (0 if rejection is None else len(rejection.detail))

    def check(
        self, certificate: ClientCertificate | None, requirement: TokenRequirement
    ) -> CheckedToken:
        """Judge a request with this token. :raises HttpError: it must not go on."""
        contents = self.contents
        if contents.rejection is not None:
            raise HttpError(contents.rejection)
        verdict = check_binding(contents.binding, self.scheme, certificate, requirement)
        # The back end verifies the proof of a DPoP key: until then these are anyone's claims.
        return CheckedToken(verdict, b"" if verdict is _DPOP else contents.claims)


class TokenCheck:
    """The check of a proxy's access tokens, with a cache of their contents.

    Rejected tokens have a smaller cache of their own: anyone can send any number of them, and they
    must not evict the good ones.
    """

    def __init__(self, settings: TokenSettings, verifier: Verifier) -> None:
        self._settings = settings
        self._verifier = verifier
        self._cache: TokenCache[_Known] = TokenCache(settings.cache_entries)
        self._rejected: TokenCache[_Known] = TokenCache(
            max(1, settings.cache_entries // _REJECTED_SHARE), _MAX_REJECTED_BYTES
        )
        self.pending = 0
        self._pending_of: Counter[str] = Counter()

    @classmethod
    def from_files(cls, files: TokenFiles, reactor: Any) -> TokenCheck:
        """Make the check that ``[tokens]`` describes."""
        return cls(files.settings, make_verifier(files, reactor))

    def start(self) -> None:
        """Fetch what will be needed, before the first request."""
        self._verifier.start()

    def stop(self) -> None:
        """End what is being fetched."""
        self._verifier.stop()

    def adopt(self, other: TokenCheck) -> None:
        """Use the keys that another check has fetched from the same server."""
        if isinstance(self._verifier, JwtVerifier) and isinstance(other._verifier, JwtVerifier):
            self._verifier.adopt(other._verifier)

    def probe(self) -> Deferred[TokenState]:
        """Send the authorization server one request, without a client's."""
        return self._verifier.probe().addCallback(lambda _: self.state())

    def forget(self) -> None:
        """Empty the cache, so that each token is read again."""
        self._cache.clear()
        self._rejected.clear()

    def state(self) -> TokenState:
        """Return the state, for the status page and the metrics."""
        status, settings = self._verifier.status(), self._settings
        return TokenState(
            level=settings.level.value,
            issuer=without_secrets(settings.issuer or ""),
            keys=status.count,
            fetched=status.fetched,
            failures=status.failures,
            error=status.error,
            pending=self.pending,
        )

    def check(
        self,
        head: RequestHead,
        certificate: ClientCertificate | None,
        requirement: TokenRequirement,
        now: float,
        peer: str,
    ) -> CheckedToken | Deferred[CheckedToken]:
        """Judge the token of a request, as in :class:`TokenChecker`."""
        value = authorization_of(head)
        if value is None:
            return CheckedToken(check_missing(requirement))
        thumbprint = None if certificate is None else certificate.thumbprint
        key = sha256(value).digest(), thumbprint
        known = self._cache.get(key, now) or self._rejected.get(key, now)
        if known is not None:
            # For every request, whatever is remembered: this is about the token alone.
            return known.check(certificate, requirement)
        presented = read_credentials(value, self._settings.max_token_bytes)
        if presented is None:
            return CheckedToken(check_missing(requirement))
        check_certificate(presented.scheme, certificate, requirement)
        read = self._verifier.read(presented.token, now)
        if isinstance(read, Deferred):
            self._pend(read, peer)
            return read.addCallback(
                lambda contents: self._judge(
                    key, _Known(contents, presented.scheme, now), certificate, requirement
                )
            )
        return self._judge(key, _Known(read, presented.scheme, now), certificate, requirement)

    def _judge(
        self,
        key: Key,
        known: _Known,
        certificate: ClientCertificate | None,
        requirement: TokenRequirement,
    ) -> CheckedToken:
        """Judge a request with a token that was read for it, and remember the token."""
        try:
            checked = known.check(certificate, requirement)
        except HttpError:
            self._rejected.put(key, known)
            raise
        self._cache.put(key, known)
        return checked

    def _pend(self, read: Deferred[TokenContents], peer: str) -> None:
        """Count a request that waits for the authorization server, until it does no more.

        :raises HttpError: 503, too many wait, in all or of this address.
        """
        address = subscriber(peer)
        try:
            self._check_room(address)
        except HttpError:
            read.addErrback(lambda _: None)
            read.cancel()
            raise
        self.pending += 1
        self._pending_of[address] += 1

        def ended(result: Any) -> Any:
            self.pending -= 1
            self._pending_of[address] -= 1
            if not self._pending_of[address]:
                del self._pending_of[address]
            return result

        read.addBoth(ended)

    def _check_room(self, address: str) -> None:
        settings, text = self._settings, "Too many access tokens are being verified"
        if self.pending >= settings.max_pending_checks:
            detail = f"{self.pending} requests wait for the authorization server"
            raise rejected(Code.TOKEN_CHECKS_FULL, detail, text)
        # Behind a unix socket, clients have no address of their own.
        own = 0 if address == UNKNOWN else self._pending_of[address]
        if own >= settings.max_pending_checks_per_address:
            detail = f"{own} requests of this address wait for the authorization server"
            raise rejected(Code.TOKEN_ADDRESS_FULL, detail, text)
