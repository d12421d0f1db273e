"""Tests of :mod:`x509proxy.config.accounts`."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.config.accounts import act_as, as_root


class Rights(SynchronousTestCase):
    """Calls of the system are recorded: a test cannot change its user for good."""

    def setUp(self) -> None:
        self.effective = 0
        self.calls: list[tuple[object, ...]] = []
        self.patch(os, "geteuid", lambda: self.effective)
        self.patch(os, "seteuid", self.become)
        self.patch(os, "setegid", lambda group: self.calls.append(("group", group)))
        self.patch(os, "initgroups", lambda *given: self.calls.append(("groups", *given)))

    def become(self, user: int) -> None:
        self.effective = user
        self.calls.append(("user", user))

    def test_act_as(self) -> None:
        """Groups are given before the right to change them is lost."""
        account = pwd.getpwnam("nobody")
        self.patch(os, "access", lambda *_, **__: True)
        self.assertEqual("", act_as("nobody", __file__))
        expected = [
            ("groups", "nobody", account.pw_gid),
            ("group", account.pw_gid),
            ("user", account.pw_uid),
        ]
        self.assertEqual(expected, self.calls)

    def test_nobody_there(self) -> None:
        """A user that does not exist changes nothing."""
        problem = act_as("x509proxy-no-such-user", __file__)
        self.assertIn("found no user x509proxy-no-such-user", problem)
        self.assertEqual([], self.calls)

    def test_closed_program(self) -> None:
        """A user that cannot read the program could not import its modules: root goes on."""
        self.patch(os, "access", lambda *_, **__: False)
        self.assertIn("found a program that nobody cannot read", act_as("nobody", __file__))
        self.assertEqual(0, self.effective)

    def saved(self, user: int) -> Callable[[], tuple[int, int, int]]:
        return lambda: (user, self.effective, user)

    def test_as_root(self) -> None:
        """A call has root's rights and no longer than it lasts, whatever its result."""
        self.effective = 1000
        self.patch(os, "getresuid", self.saved(0))
        self.assertEqual(0, as_root(os.geteuid))
        self.assertEqual(1000, self.effective)
        self.assertRaises(ValueError, as_root, mock.Mock(side_effect=ValueError))
        self.assertEqual(1000, self.effective)

    def test_without_root(self) -> None:
        """Another user's process, and one of root, make the call as they are."""
        for user in (1000, 0):
            self.effective = user
            self.patch(os, "getresuid", self.saved(user))
            self.assertEqual(user, as_root(os.geteuid))
        self.assertEqual([], self.calls)
