"""The proxy as a Twisted resource, with one set of rules under either of two servers.

Under :class:`x509proxy.downstream.factory.ProxyFactory` it streams; under a stock ``Site`` it
buffers. Import this module late: ``twisted.web.proxy``, which it imports, installs a reactor.
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
    """A reverse proxy that adds the client's certificate to each request, in a secret header.

    Use ``X509ProxyResource("127.0.0.1", 8080, b"", header="Sec-Client-X509-Cert-…")`` under
    ``Site``, or under :class:`x509proxy.downstream.factory.ProxyFactory`, which streams. The back
    end receives the target unchanged, after ``path``. Below the root of a ``Site``, the path
    segments above the resource are removed. ``Host`` is kept.

    :param host: the back end's host.
    :param port: the back end's port.
    :param path: put before every target, without a trailing slash.
    :param header: the secret header name, 32 characters or more; ``None`` for presets whose names
        are fixed.
    :param preset: the name of the back end's product (:mod:`x509proxy.forwarding.presets`).
    :param rules: the headers for the back end, in place of ``header`` and ``preset``.
    :param policy: the requirements for client certificates, with ``rules`` by path.
    :param tokens: the keys and limits for access tokens, for ``policy.rules`` with ``token``.
    :param discovery: the mTLS aliases to add to the authorization server's metadata.
    :param client: the limits of requests under a stock ``Site``; ``ProxyFactory`` has its own.
    :param upstream: the limits and timeouts of connections to the back end.
    :param pools: the back ends, in place of the one at ``host`` and ``port``.
    :param observe: called with each :class:`~x509proxy.exchange.Exchange` after its end.
    :raises SettingsError: the header name is missing, short or guessable; the preset is unknown;
        or the address is invalid.
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
        self._connection_key: object = None
        self._started = self._endpoint_checked = False

    @classmethod
    def from_configuration(
        cls, configuration: Configuration, reactor: Any, observe: Observer = unobserved
    ) -> X509ProxyResource:
        """Make the resource that a configuration describes."""
        settings, deadlines = configuration.settings, Deadlines(reactor)
        pools = _pools(configuration, reactor, deadlines, [])
        first = configuration.backends[0]
        resource = cls(
            first.host, first.port, first.base, reactor, rules=configuration.rules,
            policy=settings.policy, discovery=settings.discovery, tokens=configuration.tokens,
            client=settings.client, upstream=settings.upstream, pools=pools, deadlines=deadlines,
            observe=observe,
        )  # fmt: skip
        resource._connection_key = _connection_key(configuration)
        return resource

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
        """The connection pools, one for each back end in use."""
        return self._pools

    @property
    def token_state(self) -> TokenState | None:
        """The state of the token check, or ``None`` if no token is checked."""
        return None if self._tokens is None else self._tokens.state()

    def serve(self, request: ProxiedRequest) -> None:
        """Relay one request."""
        Relay(
            request, self._pools, self._rules, self._policy, self._discovery, self._tokens
        ).start()

    def use(self, configuration: Configuration) -> None:
        """Use a configuration from the next request on, also on open connections.

        Requests in progress finish with the old one. A back end keeps its connections if nothing
        has changed for it. Otherwise they close after their current requests.
        """
        settings, key = configuration.settings, _connection_key(configuration)
        old, kept = self._pools, list(self._pools) if key == self._connection_key else []
        self._pools = _pools(configuration, self.reactor, self.deadlines, kept)
        if self._started:
            self.start()
        self._connection_key = key
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
        """Check tokens with these files; keep the fetched keys whose settings are the same."""
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
        """Start the health checks, if ``[health]`` is configured, and the token check."""
        self._started = True
        for pool in self._pools:
            pool.start()
        if self._tokens is not None:
            self._tokens.start()

    def close(self) -> None:
        """Stop the checks, and close the idle connections to the back ends."""
        for pool in self._pools:
            pool.close()
        if self._tokens is not None:
            self._tokens.stop()

    # Twisted calls, under a stock Site.

    def getChild(self, path: bytes, request: StockRequest) -> IResource:
        # The base class returns a ReverseProxyResource, which sanitizes nothing (twisted#7806).
        return self

    def render(self, request: StockRequest) -> int:
        site_request = SiteRequest(request, self.observe, self.reactor.seconds)
        try:
            self._check_endpoint(request)
            site_request.head = read_stock_head(request, self._client)
            site_request.set_request_id(self._client.request_id)
            self.serve(site_request)
        except HttpError as error:
            site_request.answer(error.response)
        except Exception:
            # Fail closed (L3), as the proxy's own channel does.
            self._log.failure("a request could not be served")
            site_request.fail(ErrorResponse(Code.INTERNAL_ERROR, "internal error"))
        return NOT_DONE_YET

    def _check_endpoint(self, request: StockRequest) -> None:
        """Warn at the first request if the endpoint, such as ``ssl:``, requests no certificate."""
        if self._endpoint_checked:
            return
        self._endpoint_checked = True
        wants_none = self._policy.client_certificate is ClientAuth.NONE
        if not wants_none and not asks_for_certificate(request):
            self._log.warn(
                "no client can send a certificate: the endpoint does not request any; "
                "use x509: in place of ssl:"
            )


def _check_kinds(**arguments: tuple[object, type]) -> None:
    """Reject text for octets, and the reverse, with an error that names only the argument."""
    for name, (value, kind) in arguments.items():
        if not isinstance(value, kind):
            raise SettingsError(f"{name}: found {type(value).__name__}, expected {kind.__name__}")


def _check_host(host: str) -> None:
    # The value is not repeated: a URL may hold a key.
    error = SettingsError(
        "host: found no host name or address, expected one such as 127.0.0.1, "
        "without a scheme, a port or a path"
    )
    try:
        backend = Backend.parse(f"http://[{host}]" if ":" in host else f"http://{host}")
    except SettingsError:
        raise error from None
    if backend.host != host.lower():
        raise error


def _connection_key(configuration: Configuration) -> object:
    """Return the settings of all connections to back ends, to compare.

    A private key that was read again is another object. So its certificate is compared.
    """
    identity = configuration.upstream_identity
    certificates = None if identity is None else (identity.certificate, identity.chain)
    return (
        configuration.settings.upstream,
        configuration.settings.health,
        configuration.upstream_authorities,
        certificates,
    )


def _token_check(files: TokenFiles | None, reactor: Any) -> TokenCheck | None:
    return None if files is None else TokenCheck.from_files(files, reactor)


def _pools(
    configuration: Configuration, reactor: Any, deadlines: Deadlines, kept: list[Pool]
) -> tuple[Pool, ...]:
    """Return a pool for each back end, from ``kept`` if possible.

    Each kept pool is used once, so that an address that is listed twice has two pools.
    """

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
