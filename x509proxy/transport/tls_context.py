"""TLS contexts for servers, verification that records errors, and the certificate of a connection.

Facts
-----
* A verify callback that returns True waives everything but possession of the key (RFC 8446 section
  4.4.3). OpenSSL's errors are recorded with the connection, and the policy judges them later
  (invariant L5). OpenSSL calls it once for each error, and once more at the end.
* Only ``get_peer_certificate`` names the leaf. On a server the chain does not contain it, so the
  client chooses the chain's first entry, such as another client's certificate (as in Keycloak's
  CVE-2023-2422).
* Resumption skips the callback and takes the certificate from the ticket. Both ``OP_NO_TICKET`` and
  ``SESS_CACHE_OFF`` are needed to disable it. Without a session id context, the handshake of
  clients that try to resume would fail (invariant L6).
* pyOpenSSL rejects changes to a context in use, so a reload makes a new one.
* An empty list of authorities in the CertificateRequest means "any". With a list, clients send no
  other certificates (kubernetes/ingress-nginx 8813).
* Several certificates need several contexts with equal options. ``set_context`` replaces the
  certificate, the ALPN callback and the store with authorities and revocation lists. Everything
  else stays that of the first context. In TLS 1.3 its servername callback is called again after a
  HelloRetryRequest.
* An ``Exception`` in a servername callback ends the handshake. After another ``BaseException`` the
  handshake continues with the first certificate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from x509proxy.certificates.client_certificate import (
    INVALID_PURPOSE,
    SELF_SIGNED_LEAF,
    UNKNOWN_ISSUER,
    ClientCertificate,
    Verdict,
    VerifyError,
    unreadable,
)
from x509proxy.certificates.pem_files import Identity, PrivateKey
from x509proxy.certificates.sni import ServerNames, key_of
from x509proxy.certificates.trust_store import EMPTY, TrustStore
from x509proxy.monitoring.counters import NULL_METRICS, MetricsObserver
from x509proxy.monitoring.handshake_log_format import HandshakeObserver, unlogged
from x509proxy.settings import (
    ClientAuth,
    ClientSettings,
    SettingsError,
    TlsSettings,
    TlsVersion,
    Usage,
)

__all__ = [
    "ServerConnections",
    "asks_for_certificate",
    "client_auth_of",
    "client_certificate",
    "connection_of",
    "has_long_chain",
    "key_exchange_of",
    "make_context",
    "peer_certificate",
    "pyopenssl_key",
    "require_certificate",
    "transport_of",
]

_ENABLE_PARTIAL_WRITE = 1  # SSL_MODE_ENABLE_PARTIAL_WRITE of openssl/ssl.h
_VERSIONS = {TlsVersion.TLS_1_2: SSL.TLS1_2_VERSION, TlsVersion.TLS_1_3: SSL.TLS1_3_VERSION}
# TLS 1.2: forward secrecy and AEAD only, as in TLS 1.3. AES-128 is first, as in Mozilla's and Go's
# order: it is as strong as the curves, and its SHA-256 costs less in a handshake than the SHA-384
# of AES-256.
_CIPHERS = b"ECDHE+AESGCM+AES128:ECDHE+AESGCM:ECDHE+CHACHA20"
_TLS_1_3_CIPHERS = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
# OpenSSL's default includes ffdhe3072, which costs the server 1.33 ms for each ClientHello and the
# client nothing (D(HE)at, CVE-2002-20001). X25519 costs 0.11 ms, P-521 0.42 ms. P-521 is needed: in
# TLS 1.2 a client's certificate must be on a curve of this list.
_GROUPS = b"X25519MLKEM768:X25519:P-256:P-384:P-521"
# pyOpenSSL 26.4 has no public call: set_tmp_ecdh accepts one curve. If a later binding lacks this
# function, OpenSSL's own list is used.
_set_groups: Callable[[Any, bytes], int] | None = getattr(
    SSL._lib,  # type: ignore[attr-defined]  # noqa: SLF001
    "SSL_CTX_set1_curves_list",
    None,
)
_OPTIONS = (
    SSL.OP_NO_TICKET
    | SSL.OP_NO_RENEGOTIATION
    | SSL.OP_NO_COMPRESSION
    | SSL.OP_CIPHER_SERVER_PREFERENCE
)
_HTTP_1_1 = b"http/1.1"
_MAX_ISSUERS = 10  # besides the client's own certificate; public chains have two or three
_CHECK_LISTS = crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL


class _Connection(SSL.Connection):
    """A connection with the errors that OpenSSL reported, and the parsed certificate.

    They are attributes because Twisted uses the connection's app data for the protocol.
    """

    def __init__(self, context: SSL.Context, client_auth: ClientAuth | None) -> None:
        super().__init__(context, None)
        self.client_auth = client_auth
        # Keeps the context alive after set_context or a reload, since OpenSSL may still call its
        # servername callback.
        self.first_context = context
        # None until OpenSSL has verified a certificate, an empty set if it found no error.
        self.verify_errors: set[VerifyError] | None = None
        self.certificate: ClientCertificate | None = None
        self.certificate_read = False


def _record(
    connection: SSL.Connection, _certificate: crypto.X509, code: int, depth: int, ok: int
) -> bool:
    """Record OpenSSL's error and continue the handshake, or end it if that is impossible."""
    try:
        assert isinstance(connection, _Connection)
        if connection.verify_errors is None:
            connection.verify_errors = set()
        if not ok:
            connection.verify_errors.add(VerifyError(depth, code))
    except BaseException:
        return False
    return True


def _record_except_usage(
    connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int
) -> bool:
    """Record all errors but a wrong key usage: the verify callback for ``usage = "ignore"``.

    OpenSSL reports an issuer that is not a CA separately (``X509_V_ERR_INVALID_CA``), so that only
    CAs vouch for clients here too.
    """
    return _record(connection, certificate, code, depth, ok or code == INVALID_PURPOSE)


_RECORDERS = {Usage.ENFORCE: _record, Usage.IGNORE: _record_except_usage}


def _choose_http_1_1(_connection: SSL.Connection, offered: list[bytes]) -> bytes:
    """Return ``http/1.1``, or end the handshake with ``no_application_protocol``.

    RFC 7301 section 3.2 demands that alert, which OpenSSL sends after an exception.

    :raises OpenSSL.SSL.Error: as OpenSSL itself would report it.
    """
    if _HTTP_1_1 in offered:
        return _HTTP_1_1
    raise SSL.Error([("SSL routines", "", "no application protocol")])


def make_context(
    identity: Identity,
    ask: ClientAuth,
    trusted: TrustStore = EMPTY,
    settings: TlsSettings = TlsSettings(),
    http: bool = True,
    extra_identities: Sequence[Identity] = (),
) -> SSL.Context:
    """Make a TLS context for a server.

    :param identity: the server's certificate and private key.
    :param ask: ``NONE`` requests no certificate. ``OPTIONAL`` and ``REQUIRED`` both request one,
        and accept a handshake without it.
    :param trusted: the authorities for clients' certificates. The handshake does not name them.
    :param settings: the lowest TLS version.
    :param http: select ``http/1.1`` by ALPN.
    :param extra_identities: certificates for the DNS names that they contain. Clients that name
        none of these get ``identity``.
    :raises SettingsError: OpenSSL rejects a certificate, a key or a revocation list, or two
        certificates have the same name.
    """
    identities = (identity, *extra_identities)
    context, *others = (
        _make_one(one, key_of(index), ask, trusted, settings, http)
        for index, one in enumerate(identities)
    )
    if others:
        names = ServerNames.of([one.certificate for one in identities])
        context.set_tlsext_servername_callback(_select_by_name(names, others))
    return context


def _make_one(
    identity: Identity,
    where: str,
    ask: ClientAuth,
    trusted: TrustStore,
    settings: TlsSettings,
    http: bool,
) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(_VERSIONS[settings.minimum_version])
    context.set_cipher_list(_CIPHERS)
    context.set_tls13_ciphersuites(_TLS_1_3_CIPHERS)
    if _set_groups is not None:
        _set_groups(context._context, _GROUPS)  # noqa: SLF001
    context.set_options(_OPTIONS)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    # pyOpenSSL sets this mode, in which one SSL_write writes one record. Without it, a download
    # takes 16 % less CPU (python -m bench --loads down).
    context.clear_mode(_ENABLE_PARTIAL_WRITE)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"x509proxy")
    mode = SSL.VERIFY_NONE if ask is ClientAuth.NONE else SSL.VERIFY_PEER
    context.set_verify(mode, _RECORDERS[trusted.usage])
    _add_identity(context, identity, where)
    _add_trusted(context, trusted)
    if http:
        context.set_alpn_select_callback(_choose_http_1_1)
    return context


def _select_by_name(
    names: ServerNames, others: Sequence[SSL.Context]
) -> Callable[[SSL.Connection], None]:
    def select(connection: SSL.Connection) -> None:
        try:
            index = names.index_for(connection.get_servername())
            if index:
                connection.set_context(others[index - 1])
        except BaseException:
            raise RuntimeError("cannot select a certificate") from None

    return select


def require_certificate(context: SSL.Context) -> None:
    """Let handshakes without a client certificate fail, for servers that send no error response."""
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _record)


def _add_trusted(context: SSL.Context, trusted: TrustStore) -> None:
    store = context.get_cert_store()
    assert store is not None
    # Each issuer that the client sends can cost up to 5 ms (RSA 3072 with an exponent as long), and
    # a handshake has room for 75 of them. So no more are verified than a chain may have. A depth of
    # 0 still permits one issuer.
    context.set_verify_depth(trusted.depth if trusted.authorities else 0)
    try:
        for authority in trusted.authorities:
            store.add_cert(crypto.X509.from_cryptography(authority))
        for crl in trusted.crls:
            store.add_crl(crl)
    except crypto.Error:
        raise SettingsError(
            "ca: found a certificate or a revocation list that OpenSSL rejects, "
            "expected those of an authority"
        ) from None
    if trusted.crls:
        store.set_flags(_CHECK_LISTS)


def _add_identity(context: SSL.Context, identity: Identity, where: str) -> None:
    try:
        context.use_certificate(identity.certificate)
        for certificate in identity.chain:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(pyopenssl_key(identity.private_key))
        context.check_privatekey()
    except SSL.Error as error:
        reason = error.args[0][0][-1] if error.args and error.args[0] else "no reason given"
        raise SettingsError(
            f"{where}: found a certificate or a key that OpenSSL rejects: {reason}, "
            "expected one that it can sign with"
        ) from None


def pyopenssl_key(key: PrivateKey) -> Any:
    """Return the key in a form that pyOpenSSL accepts, without writing it to a file.

    pyOpenSSL 26.4 has no class for ML-DSA keys, but OpenSSL reads them from PKCS #8. The result is
    then a ``PKey``. pyOpenSSL issues a DeprecationWarning for it, which Python hides. The only
    alternative is a file.
    """
    try:
        crypto.PKey.from_cryptography_key(key)  # type: ignore[arg-type]
    except TypeError:
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return crypto.load_privatekey(crypto.FILETYPE_ASN1, der)
    return key


@implementer(IOpenSSLServerConnectionCreator)
class ServerConnections:
    """A factory of OpenSSL connections for accepted sockets, with a context that can be replaced.

    :param client_auth: the listener's own setting, ``None`` for the general one.
    :param watch: metrics of handshakes, for :mod:`x509proxy.transport.tls_stream`.
    :param log: called with each failed handshake, likewise.
    :param max_handshake_bytes: limit of the client's part of a handshake, likewise.
    """

    def __init__(
        self,
        context: SSL.Context,
        client_auth: ClientAuth | None = None,
        watch: MetricsObserver = NULL_METRICS,
        log: HandshakeObserver = unlogged,
        max_handshake_bytes: int = ClientSettings().max_handshake_bytes,
    ) -> None:
        self.watch = watch
        self.log = log
        self.swap(context, client_auth, max_handshake_bytes)

    def swap(
        self,
        context: SSL.Context,
        client_auth: ClientAuth | None = None,
        max_handshake_bytes: int = ClientSettings().max_handshake_bytes,
    ) -> None:
        """Use these values for new connections. Existing ones are not changed."""
        self._context = context
        self._client_auth = client_auth
        self.max_handshake_bytes = max_handshake_bytes

    def serverConnectionForTLS(self, tlsProtocol: Protocol) -> SSL.Connection:
        return _Connection(self._context, self._client_auth)


def client_auth_of(connection: SSL.Connection) -> ClientAuth | None:
    """Return the ``client-certificate`` of the connection's listener, ``None`` if it has none."""
    return connection.client_auth if isinstance(connection, _Connection) else None


def key_exchange_of(connection: SSL.Connection) -> str:
    """Return the key exchange group of a finished handshake, such as ``X25519MLKEM768``.

    It is empty if OpenSSL cannot name it.
    """
    try:
        return connection.get_group_name() or ""
    except NotImplementedError:
        # A cryptography built against OpenSSL before 3.2 has no SSL_get0_group_name.
        return ""


def peer_certificate(connection: SSL.Connection) -> ClientCertificate | None:
    """Return the client's certificate of a finished handshake, or ``None``.

    It is parsed once for each connection. With a TLS context from elsewhere, the verdict is
    ``SELF_SIGNED`` or ``UNTRUSTED``, never ``TRUSTED``.
    """
    if not isinstance(connection, _Connection):
        return _read(connection)
    if not connection.certificate_read:
        connection.certificate = _read(connection)
        connection.certificate_read = True
    return connection.certificate


def _read(connection: SSL.Connection) -> ClientCertificate | None:
    try:
        certificate = connection.get_peer_certificate()
        if certificate is None:
            return None
        # DER, without as_cryptography: most certificates were parsed before and are in the cache.
        der = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
        errors = (
            connection.verify_errors
            if isinstance(connection, _Connection)
            else _assumed_errors(certificate.to_cryptography())
        )
        if errors is None:
            return unreadable(der)
        found = ClientCertificate.from_der(der, errors)
        if found.verdict is not Verdict.TRUSTED:
            return found
        return attrs.evolve(found, chain=_chain(connection))
    except Exception:
        # cryptography rejects some certificates that OpenSSL accepts (version 7, BER inside). The
        # client has a certificate that cannot be forwarded (L3).
        return unreadable()


def _assumed_errors(certificate: x509.Certificate) -> set[VerifyError]:
    is_own = certificate.issuer == certificate.subject
    return {SELF_SIGNED_LEAF if is_own else UNKNOWN_ISSUER}


def _chain(connection: SSL.Connection) -> tuple[bytes, ...]:
    """Return the issuers that the client sent and OpenSSL verified, in the order of the chain.

    A client may send other certificates too, such as another client's. Some servers accepted any of
    them (Keycloak's CVE-2023-2422). RFC 9440 section 2.3 permits the verified chain only.
    """
    sent = set(connection.get_peer_cert_chain(as_cryptography=True) or ())
    followed = connection.get_verified_chain(as_cryptography=True) or () if sent else ()
    return tuple(
        certificate.public_bytes(Encoding.DER)
        for certificate in followed[1:]
        if certificate in sent
    )


def has_long_chain(connection: SSL.Connection) -> bool:
    """Return True if the client sent more than ten issuers.

    OpenSSL keeps all of them in memory while the connection is open, 3 KiB and more for each.
    """
    if isinstance(connection, _Connection) and connection.verify_errors is None:
        return False  # No certificate was received yet.
    try:
        return len(connection.get_peer_cert_chain() or ()) > _MAX_ISSUERS
    except Exception:
        return False  # peer_certificate fails too, and returns an unreadable certificate (L3)


def client_certificate(request: Any) -> ClientCertificate | None:
    """Return the certificate of the TLS connection of a Twisted web request, or ``None``.

    This is for applications on the ``x509:`` endpoint, or on any other TLS endpoint that requests
    certificates. No header is involved. Check ``verdict`` and ``flags_at(now)`` before you use a
    name in the certificate: the handshake proves possession of the key, and nothing else.

    :param request: a ``twisted.web.server.Request``, over HTTP/1.1 or HTTP/2.
    """
    connection = connection_of(transport_of(request))
    return None if connection is None else peer_certificate(connection)


def asks_for_certificate(request: Any) -> bool:
    """Return True if the TLS endpoint of a Twisted web request requests certificates."""
    connection = connection_of(transport_of(request))
    return connection is not None and bool(
        connection.get_context().get_verify_mode() & SSL.VERIFY_PEER
    )


def transport_of(request: Any) -> Any:
    """Return the transport of a Twisted web request."""
    if request.transport is None:
        # Over HTTP/2 a request has no transport of its own (twisted#9270).
        return request.channel._conn.transport  # noqa: SLF001 - there is no public attribute
    return request.transport


def connection_of(transport: Any) -> SSL.Connection | None:
    """Return the OpenSSL connection of a Twisted transport, or ``None`` without TLS."""
    handle: Any = getattr(transport, "getHandle", lambda: None)()
    return handle if hasattr(handle, "get_peer_certificate") else None
