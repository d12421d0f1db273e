"""Plugins for twistd. They are data: every user of twistd on the machine imports this file."""

from twisted.application.service import ServiceMaker

from x509proxy.endpoint import X509EndpointParser

x509proxy = ServiceMaker(
    "x509proxy",
    "x509proxy.service",
    "A TLS-terminating reverse proxy that passes client certificates on (RFC 8705).",
    "x509proxy",
)

x509_endpoint = X509EndpointParser()
