"""Headless Chromium in front of the proxy, with the settings of ``docs/clients.rst``.

Debian's ``chromium libnss3-tools curl openssl``. Chromium keeps everything in a home of its own.
The page's administrator policy is written into the profile as the same setting, since a policy
holds for the whole machine. Chromium reaches no host but ``localhost``.
"""

from __future__ import annotations

import html
import json
import os
import subprocess
from typing import Any

from interop.clients import PAGE, ClientStage, documents
from interop.recipes import filled, recipe
from tests.support.ports import free_port
from x509proxy.certificates.self_signed import KeyKind

_PATIENCE = 60.0
_PROMPT = 5.0  # seconds; a page that nothing holds up is there after half of one
_FLAGS = (
    # Root has no sandbox; containers have a small /dev/shm and no graphics.
    "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
    "--dump-dom",
    "--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


class BrowserStage(ClientStage):
    """A home with certificates and a profile, a client's certificate, and a proxy of the page."""

    toml = ""

    def setUp(self) -> None:
        super().setUp()
        self.require("chromium", "certutil", "pk12util", "curl", "openssl")
        self.home = self.folder / "home"
        self.home.mkdir()
        self.environment |= {"HOME": str(self.home)}
        self.make_certificate(KeyKind.EC)
        port, people = free_port(), free_port()
        places = {"tcp:8443": f"tcp:{port}", "8080": str(self.start_echo())}
        if self.toml == "listeners.toml":
            places |= {"tcp:443": f"tcp:{people}", "as.example.com:8443": f"localhost:{port}"}
        self.proxy = self.start_proxy(filled(recipe(PAGE, self.toml), places), port)
        self.people = f"https://localhost:{people}"

    def fill_store(self, *, certificate: bool) -> None:
        """Put the proxy's authority and the client's certificate, or none, into the store."""
        self.page("nss", {} if certificate else {"pk12util ": "true "})

    def choose(self) -> None:
        """Return the page's policy, as a setting of the profile."""
        policy = json.loads(
            filled(recipe(PAGE, "policy.json"), {"https://as.example.com:8443": self.proxy.url})
        )
        choices = [json.loads(choice) for choice in policy["AutoSelectCertificateForUrls"]]
        exceptions = {
            f"{choice['pattern']},*": {"setting": {"filters": [choice["filter"]]}}
            for choice in choices
        }
        profile = self.home / "profile" / "Default"
        profile.mkdir(parents=True)
        settings = {
            "profile": {"content_settings": {"exceptions": {"auto_select_certificate": exceptions}}}
        }
        (profile / "Preferences").write_text(json.dumps(settings))

    def visit(self, url: str, seconds: float = _PATIENCE) -> list[dict[str, Any]]:
        """Return the JSON in the page that the browser shows; none if it is not there in time."""
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "DBUS_"))
        }
        profile = self.home / "profile"
        done = subprocess.run(
            [
                "chromium",
                *_FLAGS,
                f"--user-data-dir={profile}",
                f"--timeout={seconds * 1000:.0f}",
                url,
            ],
            cwd=self.home,
            env={**inherited, "HOME": str(self.home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE + 30,
            check=False,
        )
        self.assertEqual(0, done.returncode, done.stderr.decode(errors="replace"))
        return documents(html.unescape(done.stdout.decode()))

    def page_of(self, target: str) -> dict[str, Any]:
        """Return the page of the listener that requests a certificate, as the browser shows it."""
        (shown,) = self.visit(self.proxy.url + target)
        return shown

    def curl(self, url: str, *options: str) -> dict[str, Any]:
        """Return a program's response, in the browser's place."""
        command = ("curl", "--silent", "--show-error", "--cacert", "server.pem", *options, url)
        (answer,) = documents(self.run_program(*command))
        return answer

    def logged(self, target: str) -> list[str]:
        """Return the proxy's access log of this target."""
        return [
            line for line in self.proxy.log.read_text().splitlines() if f" target={target} " in line
        ]


_SHOWING = ("--cert", "my-client.pem", "--key", "my-client.key")


class TwoListeners(BrowserStage):
    """Two listeners: one requests a certificate, one does not (RFC 8705 section 5)."""

    toml = "listeners.toml"

    def test_people(self) -> None:
        """Without a certificate request a browser with a certificate loads the page at once."""
        self.fill_store(certificate=True)
        (shown,) = self.visit(f"{self.people}/authorize")
        self.assertEqual("/authorize", shown["target"])
        self.assertFalse(self.told(self.proxy, shown))
        self.assertFalse(self.told(self.proxy, self.curl(f"{self.people}/token", *_SHOWING)))

    def test_prompt(self) -> None:
        """With a certificate request that browser waits for a person, and sends nothing."""
        self.fill_store(certificate=True)
        self.assertEqual([], self.visit(f"{self.proxy.url}/authorize", _PROMPT))
        self.assertEqual([], self.logged("/authorize"))

    def test_chosen(self) -> None:
        """With the page's policy no person has to choose, and the certificate arrives."""
        self.fill_store(certificate=True)
        self.choose()
        self.assertTrue(self.told(self.proxy, self.page_of("/authorize")))
        self.assertIn("tls_version=TLSv1.3", self.logged("/authorize")[0])

    def test_chosen_rsa(self) -> None:
        """The same with an RSA key."""
        self.make_certificate(KeyKind.RSA)
        self.fill_store(certificate=True)
        self.choose()
        self.assertTrue(self.told(self.proxy, self.page_of("/authorize")))

    def test_ed25519(self) -> None:
        """NSS does not accept an Ed25519 key, as the page states."""
        self.make_certificate(KeyKind.ED25519)
        error = self.assertRaises(self.failureException, self.fill_store, certificate=True)
        self.assertIn("SEC_ERROR_PKCS12_UNABLE_TO_IMPORT_KEY", str(error))

    def test_empty_store(self) -> None:
        """A browser without a certificate loads the page of the listener that requests one."""
        self.fill_store(certificate=False)
        self.assertFalse(self.told(self.proxy, self.page_of("/authorize")))


class RulesByPath(BrowserStage):
    """One listener for people and machines."""

    toml = "rules.toml"

    def test_ignored(self) -> None:
        """A certificate that was shown does not reach the server with ``/authorize``."""
        self.fill_store(certificate=True)
        self.choose()
        # The handshake had it: another path shows it.
        self.assertTrue(self.told(self.proxy, self.page_of("/userinfo")))
        self.assertFalse(self.told(self.proxy, self.page_of("/authorize?client_id=my-client")))
        self.assertTrue(self.told(self.proxy, self.curl(f"{self.proxy.url}/token", *_SHOWING)))
        self.assertFalse(self.told(self.proxy, self.curl(f"{self.proxy.url}/authorize", *_SHOWING)))

    def test_required(self) -> None:
        """Without a certificate ``/authorize`` is served, and ``/token`` is 401 in JSON."""
        self.fill_store(certificate=False)
        self.assertFalse(self.told(self.proxy, self.page_of("/authorize")))
        for answer in (
            self.page_of("/token"),
            self.curl(f"{self.proxy.url}/token", "--data", "grant_type=client_credentials"),
        ):
            self.assertEqual("invalid_client", answer["error"])
        self.assertEqual(
            [401, 401], [int(line.split(" status=")[1][:3]) for line in self.logged("/token")]
        )
