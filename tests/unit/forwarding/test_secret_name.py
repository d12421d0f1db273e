"""Tests of :mod:`x509proxy.forwarding.secret_name`."""

from __future__ import annotations

from string import ascii_letters, digits

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.files import FileTestCase
from tests.support.names import NAME
from x509proxy.forwarding.secret_name import (
    check_header_name,
    new_header_name,
    read_header_names,
    secret_part,
)
from x509proxy.redaction import without_secrets
from x509proxy.settings import SettingsError


class ReadHeaderNameTests(FileTestCase):
    def refusal(self, data: bytes | str, mode: int = 0o600) -> SettingsError:
        error: SettingsError = self.assertRaises(
            SettingsError, read_header_names, self.write(data, mode)
        )
        return error

    def test_one_line(self) -> None:
        """The name is the one line, whatever ends it."""
        for end in ("", "\n", "\r\n", "\n\n"):
            self.assertEqual(read_header_names(self.write(NAME + end)), (NAME.encode(),))

    def test_two_lines(self) -> None:
        """Two names, in order, while one takes the other's place."""
        names = (new_header_name(), new_header_name())
        self.assertEqual(
            tuple(name.encode() for name in names), read_header_names(self.write("\n".join(names)))
        )

    def test_open(self) -> None:
        """A name that others may read is none."""
        self.assert_sentence(self.refusal(NAME, 0o644), "header-file: ", "found mode 0644")

    def test_lines(self) -> None:
        """No line and three lines are refused."""
        self.assert_sentence(self.refusal("\n"), "header-file: ", "found no lines")
        error = self.refusal(f"{NAME}\n{NAME}\n{NAME}\n")
        self.assert_sentence(error, "found 3 lines")
        self.assertNotIn(NAME, str(error))

    def test_odd_bytes(self) -> None:
        """Each content of a file gives a sentence."""
        for data in (
            b"\xff\xfe" + NAME.encode("utf-16-le"),
            b"\xef\xbb\xbf" + NAME.encode(),
            NAME.encode() + b" ",
        ):
            self.assert_sentence(
                self.refusal(data), "with other characters than letters, digits and hyphens"
            )


class CheckHeaderNameTests(FileTestCase):
    def refusal(self, name: str) -> SettingsError:
        error: SettingsError = self.assertRaises(SettingsError, check_header_name, name, "header")
        return error

    def test_good(self) -> None:
        """A random part is enough, in whatever alphabet."""
        for name in (
            NAME,
            "X-Cert-123e4567-e89b-12d3-a456-426614174000",
            "0123456789abcdef0123456789abcdef",
            "X-Client-Certificate-9F86D081884C7D659A2F",
            "Client-Cert-SHA256-qWeRtYuIoPaSdFgHjKlZ",
            "x" * 220 + "abcdefghijklmnop",
        ):
            self.assertEqual(check_header_name(name, "header"), name.encode())

    def test_server_line(self) -> None:
        """A line of the server's configuration in place of the name has a sentence of its own."""
        line = "op.tls.clientX509CertHeader = Sec-Client"
        error = self.assertRaises(SettingsError, check_header_name, line, "header-file")
        self.assertIn("found a line of the server's configuration", str(error))

    def test_two_in_one_line(self) -> None:
        """A new name, appended to a line without an end, is found: the old one would pass."""
        for name in (NAME + new_header_name(), "0123456789abcdef" * 2 + new_header_name().upper()):
            self.assert_sentence(self.refusal(name), "that is two names in one line, expected")

    def test_guessable(self) -> None:
        """Words, terms and repetition are no secret, however long."""
        for name in (
            "X-Forwarded-Tls-Client-Cert-Info-Header-Name",
            "Sec-Client-X509-Cert-" + "a" * 28,
            "x-ssl-client-certificate-sha256-x509-base64-oauth2-TLS13",
            "X-SSL-CLIENT-CERTIFICATE-SECRET-HEADER-123456",
            "Sec-Client-X509-Cert-AaAaAaAaBbBbBbBbCcCcCcCc",
            "-" * 40,
        ):
            self.assert_sentence(
                self.refusal(name),
                f"found a header name of {len(name)} characters that can be guessed",
            )

    def test_published(self) -> None:
        """A published name is rejected in every spelling, and so is its random part."""
        for part in (
            # connect2id.com: guide "TLS proxy", release 8.1; FAPI checklist of version 9.
            "alaeLuL8geiqu3OhOg1Mafa4Ecu9ahsh",
            "liede5vaePeeMiYie0xu2jaudauleing",
        ):
            name = f"Sec-Client-X509-Cert-{part}"
            for spelled in (
                name, name.lower(), name.upper(), part, f"X-Cert-{part}", f"{name}-2",
                f"X-My-{part[:16]}-{part[16:]}",
            ):  # fmt: skip
                error = self.refusal(spelled)
                self.assert_sentence(
                    error, "that is published in documentation", "x509proxy secret"
                )
                self.assertNotIn(part.lower(), str(error).lower())
            self.assertEqual(f"{name[:-1]}7".encode(), check_header_name(f"{name[:-1]}7", "header"))

    def test_length(self) -> None:
        """32 to 256 characters.

        The sentence has their number and the command that makes a good name.
        """
        self.assert_sentence(
            self.refusal(NAME[-31:]),
            "header: found",
            "of 31 characters which is too short",
            "`x509proxy secret`",
        )
        self.assert_sentence(
            self.refusal(NAME * 5), f"of {len(NAME) * 5} characters which is too long", "32 to 256"
        )
        self.assertEqual(check_header_name(NAME[-32:], "header"), NAME[-32:].encode())

    def test_characters(self) -> None:
        """Only what every back end reads as it was written."""
        for name in ("", NAME + "_", NAME + "\n", NAME + ":", "é" * 40, NAME + "\u0131"):
            self.assert_sentence(
                self.refusal(name), "with other characters than letters, digits and hyphens"
            )

    @settings(deadline=None)
    @given(st.integers())
    def test_new_names_are_good(self, _: int) -> None:
        """A new name is accepted, and no two are the same."""
        name = new_header_name()
        self.assertEqual(check_header_name(name, "header"), name.encode())
        self.assertRegex(name, r"\ASec-Client-X509-Cert-[A-Za-z0-9]{32}\Z")
        self.assertNotEqual(name, new_header_name())
        self.assertEqual(without_secrets(f"/etc/{name}.txt"), "/etc/….txt")

    @settings(deadline=None)
    @given(st.text(min_size=12) | st.text(ascii_letters + digits + "-", min_size=12, max_size=300))
    def test_never_told(self, name: str) -> None:
        """A name is accepted, or refused in a sentence without it."""
        try:
            self.assertEqual(check_header_name(name, "header").decode(), name)
        except SettingsError as error:
            self.assertNotIn(name, str(error))


class SecretPart(FileTestCase):
    def test_prefix(self) -> None:
        """The public prefix of a generated name is no part of the secret."""
        name = new_header_name()
        self.assertEqual(name[-32:].lower().encode(), secret_part(name.encode()))
        self.assertEqual(b"x-my-own", secret_part(b"X_My-Own"))
