"""The status page in a browser: headless Chromium shows it, refreshes it, and runs nothing foreign.

Debian's ``chromium curl``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

from interop.chromium import Browser
from interop.recipes import filled, recipe
from interop.stage import ClientFiles, Stage
from tests.support.ports import free_port
from x509proxy.certificates.self_signed import KeyKind, make_self_signed

PAGE = "operations/metrics"

_EVIL = "<img src=x onerror=document.title=1><script>document.title=2</script>"
_TOML = """
listen = "tcp:{port}:interface=127.0.0.1"
certificate = "server.pem"
private-key = "server.key"
header-file = "header.txt"
backend = "http://127.0.0.1:{echo}"
workers = {workers}

[[rules]]
path = "/token"
client-certificate = "required"

"""


class StatusStage(Stage):
    """A proxy with ``[admin]``, an echo behind it, a client with a hostile name, and a browser."""

    workers = 1

    def setUp(self) -> None:
        super().setUp()
        self.require("chromium", "curl")
        self.server_files()
        port, self.admin, echo = free_port(), free_port(), free_port()
        command = [
            str(Path(sys.executable).parent / "x509proxy"),
            "echo",
            "--listen",
            f"tcp:{echo}:interface=127.0.0.1",
        ]
        process = self.start("echo", command)
        self.wait_for(echo, process, "echo")
        toml = _TOML.format(port=port, echo=echo, workers=self.workers)
        admin = filled(recipe(PAGE, "admin.toml"), {"9443": str(self.admin)})
        self.proxy = self.start_proxy(toml + admin, port)
        # A common name has 64 characters at the most.
        self.evil = self.client_files(make_self_signed(KeyKind.EC, _EVIL[:64]), "evil")
        self.browser = Browser(self.folder)
        self.addCleanup(self.browser.close)
        self.url = f"http://localhost:{self.admin}/"

    def ask(self, target: str, client: ClientFiles | None = None, status: str = "200") -> None:
        """Send one request through the proxy."""
        shown = ["--cert", str(client.certificate), "--key", str(client.key)] if client else []
        found = self.run_program(
            "curl", "--silent", "--path-as-is", "--globoff", "--cacert", "server.pem", *shown,
            "--output", "/dev/null",
            "--write-out", "%{http_code}", self.proxy.url + target,
        )  # fmt: skip
        self.assertEqual(status, found)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.run_program("curl", "--silent", f"{self.url}status.json")
        )
        return found


class Shown(StatusStage):
    def test_rendered(self) -> None:
        """The page is there, in its own style and with graphs, and the browser reports no error."""
        self.browser.visit(self.url)
        text = self.browser.text()
        for part in (
            "x509proxy",
            "serving",
            "Back ends",
            "Certificates",
            "Latest error responses",
            "Client certificates",
            "localhost",
        ):
            self.assertIn(part, text)
        self.assertEqual(
            "grid", self.browser.run("getComputedStyle(document.querySelector('main')).display")
        )
        self.assertEqual(6, self.browser.run("document.querySelectorAll('.tile svg').length"))
        self.assertEqual([], [entry for entry in self.browser.console if "favicon" not in entry])

    def test_updated(self) -> None:
        """It brings itself up to date, and what is selected in it stays selected."""
        self.browser.visit(self.url)
        self.browser.run("getSelection().selectAllChildren(document.querySelector('h1'))")
        self.ask("/token", status="401")
        self.ask("/token", self.evil)
        self.browser.until(
            lambda: (
                "no client certificate" in self.browser.text()
                and "self signed" in self.browser.text()
            )
        )
        self.browser.until(
            lambda: self.browser.run("document.querySelectorAll('.tile .curve').length") == 6
        )
        self.assertEqual("x509proxy", self.browser.run("String(getSelection())"))
        self.assertIsNone(self.browser.run("document.querySelector('.stale')"))

    def test_beside_others(self) -> None:
        """A browser is steered with any number of open files: it once failed with 7 of them."""
        opened = [os.open(os.devnull, os.O_RDONLY)]
        while opened[-1] < 6:
            opened.append(os.open(os.devnull, os.O_RDONLY))
        (self.folder / "beside").mkdir()
        Browser(self.folder / "beside").close()
        for number in opened:
            os.close(number)

    def test_stale(self) -> None:
        """When the proxy has ended, the page reports it."""
        self.browser.visit(self.url)
        self.proxy.process.terminate()
        self.proxy.process.wait(30)
        self.browser.until(lambda: "does not respond" in self.browser.text())

    def test_evil(self) -> None:
        """A subject or target with elements is text, when the page loads and is refreshed."""
        self.browser.visit(self.url)
        for target in (f"/token/{_EVIL}".replace(" ", "/"), "/token/%3Cscript%3E"):
            self.ask(target, status="401")
        self.ask("/token", self.evil)
        self.browser.until(
            lambda: "CN=" in self.browser.text() and "onerror" in self.browser.text()
        )
        self.browser.visit(self.url)
        self.assertIn("onerror", self.browser.text())
        self.assertTrue(self.browser.run("document.title").endswith("x509proxy"))
        self.assertEqual(
            [0, 1],
            self.browser.run(
                "['main img, main script', 'script'].map(x => document.querySelectorAll(x).length)"
            ),
        )

    def test_policy(self) -> None:
        """Even if an element got in, it would not run, and nothing would be fetched."""
        self.browser.visit(self.url)
        insert = (
            "const p = document.createElement('p'); "
            "p.setAttribute('onclick', 'document.title = 1'); "
        )
        self.browser.run(insert + "document.body.append(p); p.click()")
        self.browser.run("const i = new Image(); i.src = '/status.json'; document.body.append(i)")
        self.browser.until(
            lambda: (
                self.browser.run("1")
                and any("Content Security Policy" in one for one in self.browser.console)
            )
        )
        self.assertTrue(self.browser.run("document.title").endswith("x509proxy"))
        self.assertIsNone(self.browser.run("document.body.innerHTML = '<b>x</b>'"))
        self.assertIn("Back ends", self.browser.text())

    def test_rebinding(self) -> None:
        """A name that an attacker has pointed here shows nothing."""
        self.browser.visit(f"http://evil.localhost:{self.admin}/status.json")
        self.assertNotIn("backends", self.browser.text())
        self.assertIn("not in allowed-hosts", self.browser.text())

    def test_widths(self) -> None:
        """At a desk and on a phone, light and dark, nothing is wider than the window."""
        self.ask("/token/" + "x" * 3000, status="401")
        self.ask("/token", self.evil)
        grounds = set()
        for width, height in ((1280, 800), (760, 1024), (390, 844), (320, 568)):
            for dark in (False, True):
                self.browser.look(width=width, height=height, dark=dark)
                self.browser.visit(self.url)
                widths = (
                    "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
                )
                self.assertEqual(*self.browser.run(widths))
                grounds.add(self.browser.run("getComputedStyle(document.body).backgroundColor"))
                picture = self.browser.picture()
                self.assertEqual((width, height), struct.unpack("!II", picture[16:24]))
                self.keep(f"{width}-{'dark' if dark else 'light'}.png", picture)
        self.assertEqual(2, len(grounds))

    def keep(self, name: str, picture: bytes) -> None:
        """Write the pictures to the folder that ``X509PROXY_PICTURES`` names."""
        with contextlib.suppress(KeyError):
            Path(os.environ["X509PROXY_PICTURES"], name).write_bytes(picture)


class Workers(StatusStage):
    """The same with two processes that serve."""

    workers = 2

    def test_sum(self) -> None:
        """The page and its JSON show what both have done.

        A worker that is killed takes nothing of it along.
        """
        for _ in range(8):
            self.ask("/token", self.evil)
        self.browser.until(lambda: self.status()["counts"]["handshakes"] == {"TLSv1.3": 8})
        found = self.status()
        self.assertEqual((2, True), (len(found["workers"]), found["ready"]))
        self.browser.visit(self.url)
        self.assertIn("Workers", self.browser.text())
        os.kill(found["workers"][0]["pid"], 9)
        self.browser.until(
            lambda: (
                found["workers"][0]["pid"] not in [one["pid"] for one in self.status()["workers"]]
            )
        )
        self.assertEqual({"TLSv1.3": 8}, self.status()["counts"]["handshakes"])

    def test_ready(self) -> None:
        """While the proxy drains, the page reports it, to the end."""
        self.browser.until(lambda: self.status()["ready"])
        context = self.context(self.proxy)
        with (
            socket.create_connection(("127.0.0.1", self.proxy.port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as busy,
        ):
            busy.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf")
            time.sleep(1.5)
            self.proxy.process.terminate()
            command = (
                "curl",
                "--silent",
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code}",
                f"{self.url}readyz",
            )
            self.browser.until(lambda: self.run_program(*command) == "503", 20)
            busy.sendall(b" done")
            self.assertIn(b" 200 OK", busy.recv(65536))
        # Twisted ends itself with the signal that it received.
        self.assertEqual(-signal.SIGTERM, self.proxy.process.wait(30))
