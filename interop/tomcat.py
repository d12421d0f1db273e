"""Debian's Tomcat 10 in a test's folder, configured as on a page."""

from __future__ import annotations

import http.client
import re
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Iterable
from pathlib import Path

import attrs

from interop.stage import ClientFiles, Proxy, Stage
from tests.support.ports import free_port

__all__ = ["Answer", "Fields", "Tomcat", "TomcatStage"]

Fields = Iterable[tuple[str, str]]

_HOME = Path("/usr/share/tomcat10")
_PAGES = Path(__file__).parent / "jsp"
# The one that is not commented out comes first; the page's takes its place.
_CONNECTOR = re.compile(r'<Connector port="8080".*?/>', re.DOTALL)
# A server for a few requests: it starts in half the time without the second compiler.
_JAVA = "-Xmx192m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"


@attrs.frozen
class Answer:
    """A response. ``said``: the lines ``name: value`` of a JSP here."""

    status: int
    body: bytes

    @property
    def said(self) -> dict[str, str]:
        lines = self.body.decode("utf-8").splitlines()
        return {
            name: value for name, found, value in (line.partition(": ") for line in lines) if found
        }

    @property
    def certificate(self) -> bytes | None:
        """The DER of the client's certificate, as the server has it."""
        text = self.said.get("certificate")
        return None if text is None else b64decode(text)


@attrs.frozen
class Tomcat:
    """A running Tomcat, on the loopback."""

    port: int
    process: subprocess.Popen[bytes]


class TomcatStage(Stage):
    """A test with a Tomcat.

    ``java_home``: another JDK than the default one.
    """

    java_home = ""

    def setUp(self) -> None:
        super().setUp()
        self.require(str(_HOME / "bin/catalina.sh"), str(_HOME / "etc/server.xml"), "java")

    def start_tomcat(
        self, connector: str, valves: str = "", properties: str = "", port: int = 0
    ) -> Tomcat:
        """Start Tomcat as Debian configures it, with these elements and properties.

        ``connector``: with port 8080, which stands for ``port``, or for one that is free.
        """
        port = port or free_port()
        base = self._make_base(
            connector.replace('port="8080"', f'port="{port}"'), valves, properties
        )
        process = self.start(
            "tomcat",
            ["/bin/sh", str(_HOME / "bin/catalina.sh"), "run"],
            {
                "CATALINA_HOME": str(_HOME),
                "CATALINA_BASE": str(base),
                "CATALINA_OPTS": _JAVA,
                **({"JAVA_HOME": self.java_home} if self.java_home else {}),
            },
        )
        self.wait_for(port, process, "tomcat")
        return Tomcat(port, process)

    def _make_base(self, connector: str, valves: str, properties: str) -> Path:
        base = self.folder / "tomcat"
        shutil.rmtree(base, ignore_errors=True)
        shutil.copytree(_HOME / "etc", base / "conf")
        for name in ("logs", "temp", "work", "webapps"):
            (base / name).mkdir()
        shutil.copytree(_PAGES, base / "webapps/ROOT")
        self.furnish(base / "webapps/ROOT")
        server = base / "conf/server.xml"
        text, replaced = _CONNECTOR.subn(lambda _: connector, server.read_text(), count=1)
        self.assertEqual(1, replaced)
        server.write_text(text.replace("</Engine>", f"{valves}</Engine>"))
        with (base / "conf/catalina.properties").open("a") as file:
            file.write(f"\n{properties}")
        return base

    def furnish(self, application: Path) -> None:
        """Add classes and libraries to the application; there are none by default."""

    def stop_tomcat(self, tomcat: Tomcat) -> None:
        """Stop Tomcat, before another one uses its port."""
        tomcat.process.terminate()
        tomcat.process.wait(30)

    # Its clients.

    def connect(
        self, proxy: Proxy, client: ClientFiles | None = None
    ) -> http.client.HTTPSConnection:
        """Connect to the proxy; the connection is closed at the end of the test."""
        context = self.context(proxy, client)
        connection = http.client.HTTPSConnection(
            "localhost", proxy.port, timeout=60, context=context
        )
        self.addCleanup(connection.close)
        return connection

    def past_the_proxy(self, tomcat: Tomcat) -> http.client.HTTPConnection:
        """Connect to Tomcat past the proxy, which no other user should be able to do."""
        connection = http.client.HTTPConnection("127.0.0.1", tomcat.port, timeout=60)
        self.addCleanup(connection.close)
        return connection

    def ask(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        fields: Fields = (),
        body: bytes | None = None,
    ) -> Answer:
        """Send one request with these fields; a name may occur more than once."""
        connection.putrequest("GET" if body is None else "POST", path)
        for name, value in fields:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, response.read())
