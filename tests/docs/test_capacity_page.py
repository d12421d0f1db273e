"""Promises of ``docs/operations/capacity.rst``.

Its sums are right, and on the safe side of the measured figures.
"""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from tests.support.pages import block, read_page
from tests.support.sample_exchange import sample_exchange
from x509proxy.monitoring.access_log_format import access_json, access_line
from x509proxy.settings import ClientSettings, UpstreamSettings

PAGE = read_page("operations/capacity")


def measured(row: str) -> float:
    """Return the figure of x509proxy in a row of the table of ``docs/performance.rst``."""
    found = re.search(
        rf"^ +{re.escape(row)}.* (?P<figure>[\d.]+) \([\d.: -]+\)$",
        read_page("performance"),
        re.MULTILINE,
    )
    assert found is not None, row
    return float(found["figure"])


class Sums(SynchronousTestCase):
    def test_cpu(self) -> None:
        """The example's sum is right, and its costs are no lower than the measured ones."""
        numbers = [
            float(text) for text in re.findall(r"[\d.]+", block("operations/capacity", "cpu"))
        ]
        fresh, fresh_cost, kept, kept_cost, share, cores = numbers
        self.assertEqual(cores, round((fresh * fresh_cost + kept * kept_cost) / share, 2))
        self.assertGreaterEqual(fresh_cost * 1e6, measured("fresh mTLS connection + token"))
        self.assertGreaterEqual(kept_cost * 1e6, measured("token paced at 1,000/s"))

    def test_little(self) -> None:
        """The number of requests in the server is the product."""
        rate, seconds, connections = re.findall(r"[\d.]+", block("operations/capacity", "little"))
        self.assertEqual(float(connections), float(rate) * float(seconds))

    def test_memory(self) -> None:
        """An idle connection takes what was measured, and more around it; the sum has all."""
        count, size, total = re.findall(r"(\d+) × (\d+) KiB = (\d+) MiB", PAGE)[0]
        inside = round(measured("idle connection"))
        self.assertIn(f"{inside} KiB in the process", PAGE)
        self.assertLess(inside, int(size))
        self.assertEqual(int(count), ClientSettings().max_connections)
        self.assertEqual(int(total), int(count) * int(size) // 1024)
        self.assertIn(
            f"that would be {4096 * ClientSettings().request_buffer_bytes >> 20} MiB", PAGE
        )

    def test_defaults(self) -> None:
        """The limits and sums in the text are those of the defaults."""
        client, upstream = ClientSettings(), UpstreamSettings()
        for text in (
            f"``upstream.max-connections`` ({upstream.max_connections})",
            f"{upstream.max_connections} × 2 × 3 = {upstream.max_connections * 6} connections",
            f"{upstream.max_queued_requests} requests wait up to {upstream.queue_timeout:g}",
            f"{2 * client.max_connections + 256} by default",
        ):
            self.assertIn(" ".join(text.split()), " ".join(PAGE.split()))

    def test_log(self) -> None:
        """The sizes of a line are those of an exchange with a certificate, to a fifth."""
        text, json = (
            int(found) for found in re.findall(r"about (\d+) bytes in text and (\d+) in", PAGE)[0]
        )
        self.assertLess(abs(len(access_line(sample_exchange())) - text), text / 5)
        self.assertLess(abs(len(access_json(sample_exchange())) - json), json / 5)
        gigabytes = 100 * text * 86400 / 1e9
        self.assertIn(f"make {gigabytes:.0f} GB per day", PAGE)
