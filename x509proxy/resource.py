"""The proxy as a Twisted resource: streaming under our own factory, buffered and by the same rules under a stock ``Site``.

Importing this module installs a reactor, since ``twisted.web.proxy`` does: import it late.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.logger import Logger
from twisted.web.proxy import ReverseProxyResource
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from twisted.web.server import Request as StockRequest

from x509proxy.authorization.token_check import TokenCheck
from x509proxy.config.loader import Configuration
from x509proxy.config.token_files import TokenFiles, read_token_files
from x509proxy.downstream.site_request import SiteRequest, read_stock_head
from x509proxy.exchange import Observer, unobserved
from x509proxy.forwarding.header_rules import HeaderRules, read_rules
from x509proxy.forwarding.token_claims import check_claims_header
from x509proxy.http1.errors import Code, ErrorResponse, HttpError
from x509proxy.monitoring.snapshot import TokenState
from x509proxy.relay import ProxiedRequest, Relay
from x509proxy.settings import (
    Backend,
    ClientAuth,
    ClientSettings,
    DiscoverySettings,
    PolicySettings,
    ProxySettings,
    Scheme,
    SettingsError,
    TokenSettings,
    UpstreamSettings,
    token_problems,
)
from x509proxy.transport.deadlines import Deadlines
from x509proxy.transport.tls_context import asks_for_certificate
from x509proxy.upstream.endpoints import backend_endpoint
from x509proxy.upstream.pool import Pool

__all__ = ["X509ProxyResource"]


class X509ProxyResource(ReverseProxyResource):
    """Relays everything below it to a back end, with the client's certificate in the header that this back end trusts.

    ``X509ProxyResource("127.0.0.1", 8080, b"", header="Sec-Client-X509-Cert-…")`` under ``Site``, or under
    :class:`x509proxy.downstream.factory.ProxyFactory`, which streams. The target goes to the back end byte for byte, after ``path``;
    mounted below a ``Site``'s root it goes without the segments that led here. ``Host`` is kept.

    :param host: the back end's host; :param port: its port; :param path: put before every target, without a trailing slash.
    :param header: the secret header name, 32 characters or more; ``None`` for presets whose names are fixed.
    :param preset: which server it is (:mod:`x509proxy.forwarding.presets`).
    :param tokens: the way to read access tokens, for ``policy.rules`` with ``token``.
    :param discovery: where clients with certificates go, to be added to the server's metadata.
    :param pools: the back ends, if not the one at ``host`` and ``port``.
    :param observe: called with each :class:`~x509proxy.exchange.Exchange` after its end.
    :raises SettingsError: the header name is missing, short or guessable, the preset unknown, or the address no address.
    """

    isLeaf = True
    _log = Logger()

    def __init__(
        self,
        host: str,
        port: int,
        path: bytes = b"",
        reactor: Any = None,
        *,
        header: str | None = None,
        preset: str = "connect2id",
        rules: HeaderRules | None = None,
        policy: PolicySettings = PolicySettings(),
        discovery: DiscoverySettings | None = None,
        tokens: TokenSettings | TokenFiles | None = None,
        client: ClientSettings = ClientSettings(),
        upstream: UpstreamSettings = UpstreamSettings(),
        pools: Sequence[Pool] = (),
        deadlines: Deadlines | None = None,
        observe: Observer = unobserved,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        _check_kinds(
            host=(host, str),
            port=(port, int),
            path=(path, bytes),
            header=(header or "", str),
            preset=(preset, str),
        )
        super().__init__(host, port, path, reactor)
        self.deadlines = deadlines or Deadlines(reactor)
        self.observe = observe
        self._rules = rules or read_rules(ProxySettings(preset=preset, header=header))
        self._policy = policy
        self._discovery = discovery
        self._token_files = tokens if isinstance(tokens, TokenFiles) else read_token_files(tokens)
        files = self._token_files
        settings = None if files is None else files.settings
        if problems := [*token_problems(policy.rules, settings)]:
            raise SettingsError(*problems)
        check_claims_header(self._rules, policy.rules, settings)
        self._tokens = _token_check(self._token_files, reactor)
        self._client = client
        self._pools = tuple(pools) or (self._only_pool(upstream),)
        self._behind: object = None
        self._started = self._has_looked = False

    @classmethod
    def from_configuration(
        cls, configuration: Configuration, reactor: Any, observe: Observer = unobserved
    ) -> X509ProxyResource:
        """The resource that a configuration describes."""
        settings, deadlines = configuration.settings, Deadlines(reactor)
        pools = _pools(configuration, reactor, deadlines, [])
        first = configuration.backends[0]
        made = cls(
            first.host, first.port, first.base, reactor, rules=configuration.rules, policy=settings.policy,
            discovery=settings.discovery, tokens=configuration.tokens, client=settings.client, upstream=settings.upstream, pools=pools, deadlines=deadlines,
            observe=observe,
        )  # fmt: skip
        made._behind = _behind(configuration)
        return made

    def _only_pool(self, settings: UpstreamSettings) -> Pool:
        _check_host(self.host)
        backend = Backend(
            scheme=Scheme.HTTP, host=self.host, port=self.port, base=self.path.rstrip(b"/")
        )
        return Pool(
            backend, backend_endpoint(self.reactor, backend, settings), self.deadlines, settings
        )

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The back ends of the day."""
        return self._pools

    @property
    def token_state(self) -> TokenState | None:
        """The state of the check of access tokens, if there is one."""
        return None if self._tokens is None else self._tokens.state()

    def serve(self, request: ProxiedRequest) -> None:
        """Answer a request of our own channel's."""
        Relay(
            request, self._pools, self._rules, self._policy, self._discovery, self._tokens
        ).start()

    def use(self, configuration: Configuration) -> None:
        """Serve by this from the next request on, on open connections too; what is in flight ends as it began.

        A back end that nothing has changed for keeps its connections; where something has, the old ones end with what they do.
        """
        settings, behind = configuration.settings, _behind(configuration)
        old, kept = self._pools, list(self._pools) if behind == self._behind else []
        self._pools = _pools(configuration, self.reactor, self.deadlines, kept)
        if self._started:
            self.start()
        self._behind = behind
        self._rules, self._policy, self._discovery = (
            configuration.rules,
            settings.policy,
            settings.discovery,
        )
        self._use_tokens(configuration.tokens)
        self._client = settings.client
        for pool in set(old).difference(self._pools):
            pool.close()

    def _use_tokens(self, files: TokenFiles | None) -> None:
        """Check tokens by these files; the keys that were fetched for the same ones are kept."""
        if files != self._token_files:
            old, self._token_files = self._tokens, files
            self._tokens = _token_check(files, self.reactor)
            if self._tokens is not None and old is not None:
                self._tokens.adopt(old)
            if self._tokens is not None and self._started:
                self._tokens.start()
        elif self._tokens is not None:
            self._tokens.forget()

    def start(self) -> None:
        """Begin to check the back ends, if ``[health]`` is configured; without this only their exchanges tell of them."""
        self._started = True
        for pool in self._pools:
            pool.start()
        if self._tokens is not None:
            self._tokens.start()

    def close(self) -> None:
        """End the checks, and the idle connections to the back ends."""
        for pool in self._pools:
            pool.close()
        if self._tokens is not None:
            self._tokens.stop()

    # Twisted calls, under a stock Site.

    def getChild(self, path: bytes, request: StockRequest) -> IResource:
        # The parent would answer with a ReverseProxyResource, which sanitises nothing (twisted#7806).
        return self

    def render(self, request: StockRequest) -> int:
        asked = SiteRequest(request, self.observe, self.reactor.seconds)
        try:
            self._look_at_endpoint(request)
            asked.head = read_stock_head(request, self._client)
            asked.set_request_id(self._client.request_id)
            self.serve(asked)
        except HttpError as error:
            asked.answer(error.response)
        except Exception:
            # Fail closed (L3), as our own channel does.
            self._log.failure("a request could not be served")
            asked.fail(ErrorResponse(Code.INTERNAL_ERROR, "internal error"))
        return NOT_DONE_YET

    def _look_at_endpoint(self, request: StockRequest) -> None:
        """Log, with the first request, that no certificate can ever come: an ``ssl:`` endpoint asks for none."""
        if self._has_looked:
            return
        self._has_looked = True
        wants_none = self._policy.client_certificate is ClientAuth.NONE
        if not wants_none and not asks_for_certificate(request):
            self._log.warn(
                "no client certificate can come: the endpoint does not ask for any; x509: in place of ssl: does"
            )


def _check_kinds(**arguments: tuple[object, type]) -> None:
    """Text for octets, or the other way round, is an error that names the argument, and not what stands in it."""
    for name, (value, kind) in arguments.items():
        if not isinstance(value, kind):
            raise SettingsError(f"{name}: found {type(value).__name__}, expected {kind.__name__}")


def _check_host(host: str) -> None:
    # What was found is not repeated: a URL may hold a key.
    wrong = SettingsError(
        "host: found no host's name or address, expected one such as 127.0.0.1, without a scheme, a port or a path"
    )
    try:
        backend = Backend.parse(f"http://[{host}]" if ":" in host else f"http://{host}")
    except SettingsError:
        raise wrong from None
    if backend.host != host.lower():
        raise wrong


def _behind(configuration: Configuration) -> object:
    """What all connections to back ends have in common. A key read anew is another object, its certificate an equal one."""
    identity = configuration.upstream_identity
    shown = None if identity is None else (identity.certificate, identity.chain)
    return (
        configuration.settings.upstream,
        configuration.settings.health,
        configuration.upstream_authorities,
        shown,
    )


def _token_check(files: TokenFiles | None, reactor: Any) -> TokenCheck | None:
    return None if files is None else TokenCheck.from_files(files, reactor)


def _pools(
    configuration: Configuration, reactor: Any, deadlines: Deadlines, kept: list[Pool]
) -> tuple[Pool, ...]:
    """One for each back end; of those that are ``kept``, each serves one, should there be the same address twice."""

    def pool_for(backend: Backend) -> Pool:
        for pool in kept:
            if pool.backend == backend:
                kept.remove(pool)
                return pool
        authorities, identity = configuration.upstream_authorities, configuration.upstream_identity
        endpoint = backend_endpoint(
            reactor, backend, configuration.settings.upstream, authorities, identity
        )
        return Pool(
            backend,
            endpoint,
            deadlines,
            configuration.settings.upstream,
            configuration.settings.health,
        )

    return tuple(map(pool_for, configuration.backends))
