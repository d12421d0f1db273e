"""Contents of an access token, as far as the check needs them."""

from __future__ import annotations

import attrs

from x509proxy.forwarding.bound_tokens import Binding
from x509proxy.http1.errors import ErrorResponse

__all__ = ["TokenContents"]


@attrs.frozen
class TokenContents:
    """The part of a token that the check needs. ``binding``: ``None`` if it cannot be read.

    ``expires``: when these contents are no longer good, in seconds since the epoch. ``rejection``:
    the response to the token, with whatever certificate it comes. ``claims``: the JSON of the
    verified claims, empty where nothing verifies them.
    """

    binding: Binding | None
    expires: float
    rejection: ErrorResponse | None = None
    claims: bytes = attrs.field(default=b"", repr=False)
