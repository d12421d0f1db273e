"""The decisions of the proxy: the fields and the certificate that are forwarded to the back end.

The order of the steps is a security property (invariant L1):

1. Fields about one connection are removed, with those that ``Connection`` names.
2. Fields by which a client could claim a certificate or another address are removed. Names are
   compared after folding.
3. The policy admits the certificate, or rejects the request with an error that names the reason.
4. The proxy's own fields are added. So ``Connection: <secret name>`` cannot remove them.

The functions that decide about a request are pure. They depend on its head, the client of its
connection and the configuration. There is no clock and no Twisted: times are arguments. Files are
read only for a configuration, by the reader that the caller passes in.
:class:`~.metadata_rewriter.MetadataRewriter` alone has state: the document that it buffers.
"""
