"""The handshake with the client: which context, verification that records and does not refuse, and who came out of it.

Facts
-----
* A verify callback that returns True waives everything but possession of the key (RFC 8446 section 4.4.3): whatever OpenSSL
  objected to is kept beside the connection and judged later (invariant L5). It is called once for each objection, then once more.
* Only ``get_peer_certificate`` names the leaf. On a server the chain leaves it out, so its first entry is somebody else's
  certificate if the client likes (the class of Keycloak's CVE-2023-2422).
* Resumption skips the callback and takes the certificate from the ticket; to have none takes both ``OP_NO_TICKET`` and
  ``SESS_CACHE_OFF``, and without a session id context clients that try to resume fail the handshake (invariant L6).
* pyOpenSSL refuses changes to a context that has been used: a reload builds a new one and swaps it in.
* An empty list of authorities in the CertificateRequest means "any": a list makes clients send nothing
  (kubernetes/ingress-nginx 8813).
* Several certificates are several contexts that differ in nothing else: after ``set_context`` the certificate, the ALPN callback
  and the store with authorities and revocation lists are those of the new one, everything else is still the first one's. In
  TLS 1.3 the first one's servername callback is called again after a HelloRetryRequest.
* What a servername callback raises ends the handshake if it is an ``Exception``; after a ``BaseException`` the handshake goes on
  with the first certificate.
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
    ClientCertificate,
    Verdict,
    VerifyError,
    unreadable,
)
from x509proxy.certificates.pem_files import Identity, PrivateKey
from x509proxy.certificates.sni import ServerNames
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
    "asked_of",
    "asks_for_certificate",
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

_VERSIONS = {TlsVersion.TLS_1_2: SSL.TLS1_2_VERSION, TlsVersion.TLS_1_3: SSL.TLS1_3_VERSION}
# TLS 1.2: forward secrecy and AEAD only. TLS 1.3 has nothing else. AES-128 first, as Mozilla's and Go's order has it: it is as
# strong as the curves, and its SHA-256 makes a handshake cheaper than the SHA-384 that goes with AES-256.
_CIPHERS = b"ECDHE+AESGCM+AES128:ECDHE+AESGCM:ECDHE+CHACHA20"
_TLS_1_3_CIPHERS = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
# OpenSSL would take ffdhe3072 too: 1.33 ms of the server's for each ClientHello, X25519 0.11, P-521 0.42, and the client pays
# nothing (D(HE)at, CVE-2002-20001). P-521 stays: in TLS 1.2 a client's certificate must be on a curve of this list.
_GROUPS = b"X25519MLKEM768:X25519:P-256:P-384:P-521"
# pyOpenSSL 26.4 has no call for it: set_tmp_ecdh takes one curve. Where a later binding lacks the function, OpenSSL's list stays.
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
_MOST_ISSUERS = 10  # beside the client's own certificate; public chains have two or three
_CHECK_LISTS = crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL


class _Connection(SSL.Connection):
    """A connection with OpenSSL's objections, and with the certificate once somebody has asked for it.

    Not in its app data: Twisted puts the protocol there.
    """

    def __init__(self, context: SSL.Context, asked: ClientAuth | None) -> None:
        super().__init__(context, None)
        self.asked = asked
        # set_context drops it, a reload too, and OpenSSL may still call its servername callback.
        self.first_context = context
        # None while nobody has looked: that would be another thing than to have none.
        self.objections: set[VerifyError] | None = None
        self.certificate: ClientCertificate | None = None
        self.certificate_read = False


def _record(
    connection: SSL.Connection, _certificate: crypto.X509, code: int, depth: int, ok: int
) -> bool:
    """Record OpenSSL's error, and let the handshake continue; end it where that is impossible."""
    try:
        assert isinstance(connection, _Connection)
        if connection.objections is None:
            connection.objections = set()
        if not ok:
            connection.objections.add(VerifyError(depth, code))
    except BaseException:
        return False
    return True


def _record_except_usage(
    connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int
) -> bool:
    """Record all errors but the usage of a certificate in the chain: the verify callback for ``usage = "ignore"``.

    OpenSSL reports an issuer that is no CA separately (``X509_V_ERR_INVALID_CA``), so that only CAs vouch for clients here too.
    """
    return _record(connection, certificate, code, depth, ok or code == _WRONG_USAGE)


_WRONG_USAGE = 26  # X509_V_ERR_INVALID_PURPOSE
_RECORDERS = {Usage.ENFORCE: _record, Usage.IGNORE: _record_except_usage}


def _choose_http_1_1(_connection: SSL.Connection, offered: list[bytes]) -> bytes | Any:
    # Without an overlap the handshake goes on without ALPN (RFC 7301 section 3.2 allows it); stock Twisted alerts 80.
    return _HTTP_1_1 if _HTTP_1_1 in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def make_context(
    identity: Identity,
    ask: ClientAuth,
    trusted: TrustStore = EMPTY,
    settings: TlsSettings = TlsSettings(),
    http: bool = True,
    extra_identities: Sequence[Identity] = (),
) -> SSL.Context:
    """A context for a server. ``trusted``: who makes a certificate ``TRUSTED``; they are not named to clients.

    ``ask`` ``NONE`` asks for no certificate; ``OPTIONAL`` and ``REQUIRED`` ask alike, since a handshake does not judge.
    ``http``: whether to settle on ``http/1.1`` by ALPN. ``further``: who the server is to clients that ask for one of the DNS
    names in those certificates; to all others it is ``identity``.

    :raises SettingsError: OpenSSL does not take a certificate, a key or a list, or two certificates have the same name.
    """
    context, *others = (
        _make_one(one, ask, trusted, settings, http) for one in (identity, *extra_identities)
    )
    if others:
        names = ServerNames.of([one.certificate for one in (identity, *extra_identities)])
        context.set_tlsext_servername_callback(_choose_by_name(names, others))
    return context


def _make_one(
    identity: Identity, ask: ClientAuth, trusted: TrustStore, settings: TlsSettings, http: bool
) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(_VERSIONS[settings.minimum_version])
    context.set_cipher_list(_CIPHERS)
    context.set_tls13_ciphersuites(_TLS_1_3_CIPHERS)
    if _set_groups is not None:
        _set_groups(context._context, _GROUPS)  # noqa: SLF001
    context.set_options(_OPTIONS)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"x509proxy")
    mode = SSL.VERIFY_NONE if ask is ClientAuth.NONE else SSL.VERIFY_PEER
    context.set_verify(mode, _RECORDERS[trusted.usage])
    _add_identity(context, identity)
    _add_trusted(context, trusted)
    if http:
        context.set_alpn_select_callback(_choose_http_1_1)
    return context


def _choose_by_name(
    names: ServerNames, others: Sequence[SSL.Context]
) -> Callable[[SSL.Connection], None]:
    def choose(connection: SSL.Connection) -> None:
        try:
            index = names.index_for(connection.get_servername())
            if index:
                connection.set_context(others[index - 1])
        except BaseException:
            raise RuntimeError("no certificate could be chosen") from None

    return choose


def require_certificate(context: SSL.Context) -> None:
    """End the handshake of a client that shows none: for servers that have no answer of their own to give."""
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _record)


def _add_trusted(context: SSL.Context, trusted: TrustStore) -> None:
    store = context.get_cert_store()
    assert store is not None
    # Of what a client sends as its issuers, no more is looked at than can matter: each costs up to 5 ms (RSA 3072 with an
    # exponent as long), and 75 of them fit into a handshake. Zero still follows one step.
    context.set_verify_depth(trusted.depth if trusted.authorities else 0)
    try:
        for authority in trusted.authorities:
            store.add_cert(crypto.X509.from_cryptography(authority))
        for crl in trusted.crls:
            store.add_crl(crl)
    except crypto.Error:
        raise SettingsError(
            "ca: OpenSSL does not take an authority's certificate, or its revocation list"
        ) from None
    if trusted.crls:
        store.set_flags(_CHECK_LISTS)


def _add_identity(context: SSL.Context, identity: Identity) -> None:
    try:
        context.use_certificate(identity.certificate)
        for certificate in identity.chain:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(pyopenssl_key(identity.private_key))
        context.check_privatekey()
    except SSL.Error as error:
        reason = error.args[0][0][-1] if error.args and error.args[0] else "no reason given"
        raise SettingsError(f"certificate: OpenSSL does not take it: {reason}") from None


def pyopenssl_key(key: PrivateKey) -> Any:
    """Return the key in a form that pyOpenSSL accepts, without writing it to a file.

    pyOpenSSL 26.4 has no class for ML-DSA keys, but OpenSSL reads them from PKCS #8. The result is then a ``PKey``, of which
    pyOpenSSL issues a DeprecationWarning: Python hides it, and there is no other way but a file.
    """
    try:
        crypto.PKey.from_cryptography_key(key)  # type: ignore[arg-type]
    except TypeError:
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return crypto.load_privatekey(crypto.FILETYPE_ASN1, der)
    return key


@implementer(IOpenSSLServerConnectionCreator)
class ServerConnections:
    """Makes the TLS state of each accepted connection, out of the context of the day.

    ``asked``: what this listener asks for, if that is not what the others do (:func:`asked_of`). ``watch``: who is told of
    handshakes, by a stream of ours (:mod:`x509proxy.transport.tls_stream`); ``log``: called with each failed one.
    ``max_handshake_bytes``: what that stream takes of a client until the handshake is complete.
    """

    def __init__(
        self,
        context: SSL.Context,
        asked: ClientAuth | None = None,
        watch: MetricsObserver = NULL_METRICS,
        log: HandshakeObserver = unlogged,
        max_handshake_bytes: int = ClientSettings().max_handshake_bytes,
    ) -> None:
        self.watch = watch
        self.log = log
        self.swap(context, asked, max_handshake_bytes)

    def swap(
        self,
        context: SSL.Context,
        asked: ClientAuth | None = None,
        max_handshake_bytes: int = ClientSettings().max_handshake_bytes,
    ) -> None:
        """Use these for the connections to come; those that are stay with theirs."""
        self._context = context
        self._asked = asked
        self.max_handshake_bytes = max_handshake_bytes

    def serverConnectionForTLS(self, tlsProtocol: Protocol) -> SSL.Connection:
        return _Connection(self._context, self._asked)


def asked_of(connection: SSL.Connection) -> ClientAuth | None:
    """What the connection's listener asks for, if that is not what the others do."""
    return connection.asked if isinstance(connection, _Connection) else None


def key_exchange_of(connection: SSL.Connection) -> str:
    """The key exchange group of a finished handshake, such as ``X25519MLKEM768``; empty where OpenSSL cannot name it."""
    try:
        return connection.get_group_name() or ""
    except NotImplementedError:
        # A cryptography built against OpenSSL before 3.2 has no SSL_get0_group_name.
        return ""


def peer_certificate(connection: SSL.Connection) -> ClientCertificate | None:
    """The client's certificate of a finished handshake, parsed once for each connection; ``None`` if it showed none.

    It works with other people's TLS contexts too; the verdict is then ``SELF_SIGNED`` or ``UNTRUSTED``, never ``TRUSTED``.
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
        # Not as_cryptography: most certificates have been parsed before, and are found by their bytes.
        der = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
        objections = (
            connection.objections
            if isinstance(connection, _Connection)
            else _guess(certificate.to_cryptography())
        )
        if objections is None:
            return unreadable(der)
        found = ClientCertificate.from_der(der, objections)
        return (
            attrs.evolve(found, chain=_chain(connection))
            if found.verdict is Verdict.TRUSTED
            else found
        )
    except Exception:
        # cryptography refuses what OpenSSL took (version 7, BER inside): there is a certificate, and nothing to pass on (L3).
        return unreadable()


# X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT and X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY.
def _guess(certificate: x509.Certificate) -> set[VerifyError]:
    return {VerifyError(0, 18 if certificate.issuer == certificate.subject else 20)}


def _chain(connection: SSL.Connection) -> tuple[bytes, ...]:
    """What the client has sent of its chain of trust, issuer after issuer.

    It may send whatever it likes beside it, such as another client's certificate, and there were servers that let it in by the
    name of any of them (Keycloak's CVE-2023-2422): so it is only what OpenSSL has followed. RFC 9440 section 2.3 has no other.
    """
    sent = set(connection.get_peer_cert_chain(as_cryptography=True) or ())
    followed = connection.get_verified_chain(as_cryptography=True) or () if sent else ()
    return tuple(
        certificate.public_bytes(Encoding.DER)
        for certificate in followed[1:]
        if certificate in sent
    )


def has_long_chain(connection: SSL.Connection) -> bool:
    """Return whether the client has sent more issuers than a chain of trust has.

    OpenSSL keeps all of them parsed for as long as the connection lives, 3 KiB and more for each.
    """
    if isinstance(connection, _Connection) and connection.objections is None:
        return False  # No certificate has come yet.
    try:
        return len(connection.get_peer_cert_chain() or ()) > _MOST_ISSUERS
    except Exception:
        return False  # peer_certificate fails in the same way, and takes the certificate for unreadable (L3)


def client_certificate(request: Any) -> ClientCertificate | None:
    """The certificate of the client that a Twisted web request came from, with no header at all; ``None`` without one.

    For applications served by the ``x509:`` endpoint, or by any other TLS endpoint that asks for certificates. Look at
    ``verdict`` and ``flags_at(now)`` before you believe a name: the handshake has proved possession of the key, no more.

    :param request: a ``twisted.web.server.Request``, over HTTP/1.1 or HTTP/2.
    """
    connection = connection_of(transport_of(request))
    return None if connection is None else peer_certificate(connection)


def asks_for_certificate(request: Any) -> bool:
    """Return whether the TLS endpoint that a Twisted web request came by asks its clients for certificates."""
    connection = connection_of(transport_of(request))
    return connection is not None and bool(
        connection.get_context().get_verify_mode() & SSL.VERIFY_PEER
    )


def transport_of(request: Any) -> Any:
    """The transport that a Twisted web request came on."""
    if request.transport is None:
        # Over HTTP/2 a request has no transport of its own (twisted#9270).
        return request.channel._conn.transport  # noqa: SLF001 - nothing public leads there
    return request.transport


def connection_of(transport: Any) -> SSL.Connection | None:
    """The TLS state of a transport of Twisted's; ``None`` without TLS."""
    handle: Any = getattr(transport, "getHandle", lambda: None)()
    return handle if hasattr(handle, "get_peer_certificate") else None
