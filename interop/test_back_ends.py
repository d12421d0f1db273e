"""Two back ends under load, one of which is killed and brought back: lost requests and seconds."""

from __future__ import annotations

import http.client
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import attrs

from interop.stage import Proxy, Stage
from tests.support.ports import free_port

_CLIENTS = 8
_PAUSE = 0.01  # seconds between two requests of one client
_WELL, _KILLED, _AGAIN = (
    2.0,
    4.0,
    12.0,
)  # seconds of load: before the end of one, without it, and after its return
_SLOW_START = 5.0
_TOML = """
listen = "tcp:{port}:interface=127.0.0.1"
certificate = "server.pem"
private-key = "server.key"
header-file = "header.txt"
backend = ["http://127.0.0.1:{a}", "http://127.0.0.1:{b}"]

[upstream]
slow-start = {slow_start}
{health}
"""


@attrs.frozen
class Fate:
    """The result of one request: begin and end (monotonic clock), the back end or the error."""

    begun: float
    ended: float
    told: str


class _Client(threading.Thread):
    """One client, with a connection that it keeps."""

    def __init__(self, proxy: Proxy, context: ssl.SSLContext, ending: threading.Event) -> None:
        super().__init__()
        self.fates: list[Fate] = []
        self._proxy = proxy
        self._context = context
        self._ending = ending

    def run(self) -> None:
        connection = http.client.HTTPSConnection(
            "localhost", self._proxy.port, timeout=15, context=self._context
        )
        while not self._ending.wait(_PAUSE):
            begun = time.monotonic()
            try:
                connection.request("GET", "/")
                answer = connection.getresponse()
                told = answer.read().decode()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.fates.append(Fate(begun, time.monotonic(), type(error).__name__))
            else:
                self.fates.append(
                    Fate(
                        begun,
                        time.monotonic(),
                        told if answer.status == 200 else str(answer.status),
                    )
                )
        connection.close()


class Killed(Stage):
    """One of two back ends is killed under load (SIGKILL), and started again after some seconds."""

    def named(self, name: str, port: int, tag: str = "") -> subprocess.Popen[bytes]:
        process = self.start(
            name + tag,
            [sys.executable, "-m", "interop.named", name, str(port)],
            {"PYTHONPATH": str(_ROOT)},
        )
        self.wait_for(port, process, name + tag)
        return process

    def play(self, health: str) -> None:
        """Run the whole test; ``health``: a table of the configuration."""
        ports = a, b, port = free_port(), free_port(), free_port()
        assert len(set(ports)) == 3
        self.server_files()
        self.named("a", a)
        killed = self.named("b", b)
        proxy = self.start_proxy(
            _TOML.format(port=port, a=a, b=b, slow_start=_SLOW_START, health=health), port
        )
        ending = threading.Event()
        clients = [
            _Client(proxy, self.context(proxy, self.client()), ending) for _ in range(_CLIENTS)
        ]
        try:
            for client in clients:
                client.start()
            time.sleep(_WELL)
            gone = time.monotonic()
            killed.kill()
            killed.wait()
            time.sleep(_KILLED)
            self.named("b", b, "-again")
            back = time.monotonic()
            time.sleep(_AGAIN)
        finally:
            ending.set()
            for client in clients:
                client.join()
        self.judge([fate for client in clients for fate in client.fates], gone, back)
        log = proxy.log.read_text()
        self.assertEqual(
            (1, 1), (log.count(f":{b} is down: "), log.count(f":{b} is back after ")), log
        )

    def judge(self, fates: list[Fate], gone: float, back: float) -> None:
        """Check that only requests in the killed back end failed, and that it has its share."""
        failed = [fate for fate in fates if fate.told not in ("a", "b")]
        served = sorted(fate.ended for fate in fates if fate.told == "b" and fate.begun > back)
        self.assertTrue(served)
        late = [fate.ended - fate.begun for fate in fates if gone < fate.begun < back]
        windows = [
            (served[0] + second, served[0] + second + 1) for second in range(int(_AGAIN) - 5)
        ]
        shares = [
            _share([fate for fate in fates if begin <= fate.begun < end]) for begin, end in windows
        ]
        sys.stdout.write(
            f"\n{len(fates)} requests, {len(failed)} failed:"
            f" {dict(Counter(fate.told for fate in failed))};"
            f" the slowest while it was gone took {max(late) * 1000:.0f} ms;"
            f" it served again {served[0] - back:.1f} s after its start, share each second: "
            + " ".join(f"{share:.0%}" for share in shares)
            + "\n"
        )
        self.assertLessEqual(len(failed), _CLIENTS)
        for fate in failed:
            # Its answer was waited for when it was killed: begun before that, or so soon after that
            # the proxy could not have detected it.
            self.assertEqual(("502", True), (fate.told, fate.begun < gone + 0.1), fate)
        before = [fate for fate in fates if fate.ended < gone]
        self.assertTrue(0.4 < _share(before) < 0.6, _share(before))
        self.assertLess(served[0] - back, 7)
        self.assertTrue(shares[0] < 0.4 < shares[-1] < 0.6, shares)

    def test_without_checks(self) -> None:
        """Exchanges alone detect it: one in a retry-delay tries it, and goes on to the other."""
        self.play("")

    def test_with_checks(self) -> None:
        """Checks bring it back, and no request is risked."""
        self.play('[health]\npath = "/health"\ninterval = 0.5\n')


_ROOT = Path(__file__).parent.parent


def _share(fates: list[Fate]) -> float:
    """Return the second one's share of what both have served."""
    return sum(fate.told == "b" for fate in fates) / max(1, len(fates))
