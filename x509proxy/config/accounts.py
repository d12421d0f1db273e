"""The user that a check runs as: root takes the place of the service's user.

Facts
-----
* As root every file can be read, and a key of the service's user looks like that of a stranger. So
  a check as root is no check of what the service will find.
* A process whose saved user is root may become root again (seteuid(2)), here to read the originals
  of credentials as systemd does.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["act_as", "as_root"]

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


def act_as(user: str, program: str) -> str:
    """Give this process of root the rights of ``user``, or return the reason why not.

    ``program`` is a file of this program: without the right to read it, no module can be imported.
    """
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return f"found no user {user}, expected the one of User="
    os.initgroups(user, account.pw_gid)
    os.setegid(account.pw_gid)
    os.seteuid(account.pw_uid)
    if os.access(program, os.R_OK, effective_ids=True):
        return ""
    os.seteuid(0)
    return f"found a program that {user} cannot read, expected one such as /opt/x509proxy/bin"


def as_root(
    call: Callable[_Given, _Found], *arguments: _Given.args, **named: _Given.kwargs
) -> _Found:
    """Return the result of a call with root's rights, if this process has given them up."""
    user = os.geteuid()
    if user == 0 or os.getresuid()[2] != 0:
        return call(*arguments, **named)
    os.seteuid(0)
    try:
        return call(*arguments, **named)
    finally:
        os.seteuid(user)
