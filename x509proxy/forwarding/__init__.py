"""The decisions of the proxy: which fields pass, who is admitted, how the certificate is passed on.

The order of the rules is the heart of the product (invariant L1). First the fields go that concern
one connection, and those that ``Connection`` names; then every field by which a client could claim
a certificate or another address, compared after folding; then policy admits the certificate, or
rejects the request with an error that tells the client's developer why; last the proxy's own fields
are added. So ``Connection: <secret name>`` cannot remove what is added after it.

Everything here is a pure function of a request head, the client of its connection and the
configuration. There is no I/O, no clock and no Twisted: times are arguments.
"""
