"""Promises of ``bench``: what it reads from other programs, what it computes, and its tables."""

from __future__ import annotations

import json
import os
import sys
import time
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from unittest import mock
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from bench import hostile, load, measure, plot, proof, report, subsystems, tokens
from bench.growth import Curve
from bench.results import Column, Ratio, Results
from bench.scale import Scale, Shares
from bench.stage import BenchError, Stage
from bench.tokens import CheckCost

_STAT = "{pid} ({name}) S {parent} 1 1 0 -1 4194560 9 0 0 0 1 2 3 4 20 0 1 0 8315 2 2 3\n"


class Processes(SynchronousTestCase):
    def test_parent(self) -> None:
        """The parent is found behind any name of a program."""
        for name in ("nginx", "a) S 1 (b"):
            self.assertEqual(
                7, measure.parse_parent(_STAT.format(pid=9, name=name, parent=7)), name
            )

    def test_descendants(self) -> None:
        """Children's children count, in any order of their numbers; other processes do not."""
        self.assertEqual({9, 3, 4}, measure.descendants(9, {1: 0, 9: 1, 3: 9, 4: 3, 5: 1}))

    def test_resident(self) -> None:
        """Resident memory is in KiB, and none for a process that is ending."""
        self.assertEqual(
            34567, measure.parse_resident("Name:\tx\nVmHWM:\t   40000 kB\nVmRSS:\t   34567 kB\n")
        )
        self.assertEqual(0, measure.parse_resident("Name:\tx\nState:\tZ (zombie)\n"))

    def test_own(self) -> None:
        """The work of this process appears in its own figures, to a millisecond or so."""
        meter, before = measure.Meter(os.getpid()), time.process_time()
        while time.process_time() < before + 0.05:
            pass
        self.assertApproximates(time.process_time() - before, meter.seconds(), 0.02)
        self.assertGreater(measure.resident_kib(os.getpid()), 1000)

    def test_busy(self) -> None:
        """Work and stolen time count, waiting does not; the own share is not the others'."""
        self.assertEqual(1237, measure.parse_busy("cpu  1000 200 30 9999 8888 4 2 1 0 0"))
        with mock.patch.object(measure, "busy_ticks", return_value=300):
            ticks, cores = os.sysconf("SC_CLK_TCK"), os.cpu_count() or 1
            share = measure.busy_share(100, 2.0, 100 / ticks)
            self.assertAlmostEqual(100 / ticks / 2.0 / cores, share)
            self.assertEqual(0.0, measure.busy_share(100, 2.0, 99.0))

    def test_slope(self) -> None:
        """Memory without any connection does not count."""
        self.assertAlmostEqual(30.0, measure.slope([(0, 5000.0), (100, 8000.0), (200, 11000.0)]))


class Loads(SynchronousTestCase):
    def test_arguments(self) -> None:
        """A load is one command line."""
        self.assertEqual(
            [
                "-traffic=same",
                "-path=/token",
                "-connections=16",
                "-warm=2",
                "-count=7",
                "-seconds=0.0",
                "-rate=0.0",
                "-size=0",
                "-fields=0",
                "-fresh=true",
                "-bearer=",
            ],
            load.fresh("same", 7).arguments(),
        )

    def test_loads(self) -> None:
        """Kept connections, a fixed rate and long bodies differ in their arguments only."""
        self.assertEqual((1.5, False), (load.kept("api", 1.5).seconds, load.kept("api", 1.5).fresh))
        self.assertEqual(1000, load.paced("token", 1, 1000).rate)
        self.assertEqual(
            (1, 9), (load.bulk("upload", 9, 1).connections, load.bulk("upload", 9, 1).size)
        )

    def test_cost(self) -> None:
        """A cost is for one request, in µs."""
        self.assertEqual(150.0, measured(requests=2000, cpu=0.3).cost)

    def test_no_go(self) -> None:
        """Without Go there is a sentence on how to get it."""
        with (
            Stage() as stage,
            mock.patch.object(stage, "find", side_effect=BenchError("go is not installed")),
            self.assertRaisesRegex(BenchError, "the load generator needs it"),
        ):
            load.Generator(stage, mock.Mock(), 1)


def measured(requests: int = 1000, cpu: float = 0.1) -> load.Measured:
    return load.Measured(requests, 1.0, cpu, 0.02, 0.03, 0.0, "AES", 1.0, 2.0, 3.0)


class Profiles(SynchronousTestCase):
    REPORT = """
    52.10%  python3.11
    20.00%  [kernel.kallsyms]
    14.00%  _rust.abi3.so
     6.00%  libc.so.6
     3.00%  libcrypto.so.3
     2.00%  _ssl.cpython-311-x86_64-linux-gnu.so
     1.50%  nginx
"""

    def test_subsystems(self) -> None:
        """Shared objects are gathered by subsystem; the others are the program's own."""
        shares = subsystems.parse_shares(self.REPORT)
        expected = {
            "Python": 0.541,
            "kernel": 0.2,
            "OpenSSL": 0.17,
            "libc": 0.06,
            "its own code": 0.015,
        }
        self.assertEqual(expected, {name: round(share, 6) for name, share in shares.items()})

    def test_none(self) -> None:
        """No samples are no profile."""
        with self.assertRaisesRegex(BenchError, "no samples"):
            subsystems.parse_shares("Error: nothing to report\n")

    def test_table(self) -> None:
        """The dearest subsystem comes first."""
        lines = report.profile({"nginx": {"kernel": 15.0}, "ours": {"Python": 100.4}}).splitlines()
        self.assertEqual(
            [["Python", "0.00", "100"], ["kernel", "15.0", "0.00"]],
            [line.split() for line in lines[3:5]],
        )


class Proofs(SynchronousTestCase):
    DER = bytes(range(256))

    def test_encodings(self) -> None:
        """The certificate is the same in everybody's encoding."""
        base64 = b64encode(self.DER).decode()
        lines = [base64[place : place + 64] for place in range(0, len(base64), 64)]
        pem = "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])
        for value in (base64, pem.replace("\n", ""), pem.replace("\n", " "), quote(pem)):
            self.assertEqual(self.DER, proof.certificate_in(value), value)

    def test_nothing(self) -> None:
        """An empty value is no certificate, and neither is the text that Apache sends then."""
        self.assertEqual([b"", b""], [proof.certificate_in(""), proof.certificate_in("(null)")])

    def test_rubbish(self) -> None:
        """A forged value that came through does not pass for none."""
        for value in ("forged", "forged*00"):
            with self.assertRaises(BenchError):
                proof.certificate_in(value)

    def test_received(self) -> None:
        """One field with the certificate, whatever else there is."""
        value = b64encode(self.DER).decode()
        self.assertEqual(
            self.DER, proof.received_certificate([["Host", "x"], ["X-Cert", value]], "x-cert")
        )
        self.assertEqual(b"", proof.received_certificate([["Host", "x"]], "X-Cert"))

    def test_twins(self) -> None:
        """Two are one too many, in another spelling too."""
        for twin in ("X-Cert", "x_cert"):
            with self.assertRaisesRegex(BenchError, "2 certificate headers"):
                proof.received_certificate([["X-Cert", ""], [twin, ""]], "X-Cert")


A, B = Column("a", "all", "µs"), Column("b", "bulk", "ms")


def results(rounds: Sequence[tuple[float, float]] = ((10, 20), (100, 50), (30, 30))) -> Results:
    found = Results(["nginx", "ours"], "nginx")
    for number, (nginx, ours) in enumerate(rounds):
        found.add(A, "nginx", number, nginx)
        found.add(A, "ours", number, ours)
    found.add(B, "nginx", 0, 1234)
    return found


class Figures(SynchronousTestCase):
    def test_median(self) -> None:
        """A figure is the median of its rounds."""
        self.assertEqual((30, 30), (results().figure("a", "nginx"), results().figure("a", "ours")))

    def test_ratio(self) -> None:
        """A ratio is the median of the rounds' own ratios, with the lowest and the highest."""
        self.assertEqual(Ratio(1.0, 0.5, 2.0), results().ratio("a", "ours"))
        self.assertEqual(Ratio(1.0, 1.0, 1.0), results().ratio("a", "nginx"))
        self.assertEqual(Ratio(1.0, 0.5, 2.0), results().ratio("a", "nginx", "ours"))

    def test_interval(self) -> None:
        """From nine rounds on one ratio on each side is left out.

        Of twenty, five (the sign test's table).
        """
        for count, outside in ((8, 0), (9, 1), (11, 1), (12, 2), (20, 5)):
            ratio = results([(1, number) for number in range(count)]).ratio("a", "ours")
            assert ratio is not None
            self.assertEqual((outside, count - 1 - outside), (ratio.low, ratio.high), count)

    def test_unknown(self) -> None:
        """A missing figure has no ratio, and does not shift the other rounds."""
        found = results()
        self.assertEqual((None, None), (found.figure("b", "ours"), found.ratio("b", "ours")))
        found.add(B, "nginx", 1, 1000)
        found.add(B, "ours", 1, 2000)
        self.assertEqual(
            (2000, Ratio(2.0, 2.0, 2.0)), (found.figure("b", "ours"), found.ratio("b", "ours"))
        )

    def test_json(self) -> None:
        """Every round's figure is kept, with the median and the ratio."""
        columns = json.loads(json.dumps(results().as_json()))["columns"]
        self.assertEqual(
            {"median": 30, "ratio": [1.0, 0.5, 2.0], "rounds": {"0": 20, "1": 50, "2": 30}},
            columns["a"]["subjects"]["ours"],
        )
        self.assertIsNone(columns["b"]["subjects"]["ours"]["ratio"])

    def test_remarks(self) -> None:
        """A remark is kept once."""
        found = results()
        found.remark("Alas.")
        found.remark("Alas.")
        self.assertEqual(["Alas."], found.remarks)


class Tables(SynchronousTestCase):
    def test_grid(self) -> None:
        """A table that reStructuredText reads: columns as wide as their widest cell."""
        self.assertEqual(
            "==  =\na   b\n==  =\ncc  d\n==  =\n", report.grid([["a", "b"], ["cc", "d"]])
        )

    def test_table(self) -> None:
        """A row for each load, with figures and ratios, or a dash; then the remarks."""
        found = results()
        found.remark("apache is left out: apache2 is not installed.")
        lines = report.table(found).splitlines()
        self.assertEqual(["load", "nginx", "ours"], lines[1].split())
        self.assertEqual(["all,", "µs", "30.0", "30.0", "(1.00:", "0.50-2.00)"], lines[3].split())
        self.assertEqual(["bulk,", "ms", "1234", "—"], lines[4].split())
        self.assertEqual("apache is left out: apache2 is not installed.", lines[-1])

    def test_pairs(self) -> None:
        """Two versions are compared round by round."""
        lines = report.pairs(results(), "ours", ["nginx"]).splitlines()
        self.assertEqual("load  ours / nginx", lines[1])
        self.assertEqual(["all   1.00: 0.50-2.00", "bulk  —"], lines[3:5])

    def test_growth(self) -> None:
        """A row for each step, a column for each subject."""
        lines = report.growth(
            [Curve("fields", [1, 1000], {"nginx": [15.5, 200.2], "ours": [100.4, None]})]
        ).splitlines()
        self.assertEqual(
            [["1", "15.5", "100"], ["1,000", "200", "—"]], [line.split() for line in lines[3:5]]
        )

    def test_checks(self) -> None:
        """Each check has a row: median, lowest and highest batch, and the goal."""
        costs = [CheckCost("known", [2.5, 2.0, 4.0], 5.0), CheckCost("new", [30.0])]
        lines = report.checks(costs).splitlines()
        self.assertEqual(["known", "2.50", "(2.00-4.00)", "5"], lines[3].split())
        self.assertEqual(["new", "30.0", "(30.0-30.0)", "—"], lines[4].split())

    def test_plot(self) -> None:
        """Without matplotlib there is no plot, and a sentence with the reason."""
        with mock.patch.dict(sys.modules, {"matplotlib": None, "matplotlib.figure": None}):
            self.assertIn("not installed", plot.draw(Path("never.svg"), results(), []))
        self.assertFalse(Path("never.svg").exists())


class Tokens(SynchronousTestCase):
    def test_costs(self) -> None:
        """Each check is accepted, or it would raise; a known token costs less than a new one."""
        self.patch(tokens, "_KNOWN", 3)
        self.patch(tokens, "_NEW", 3)
        costs = {one.title: one.cost for one in tokens.check_costs(batches=3)}
        self.assertEqual(6, len(costs))
        self.assertLess(costs["jwt, known token"], costs["jwt, new token, ES256"])

    def test_missing(self) -> None:
        """Without the library that signs the tokens there is one sentence."""
        with (
            mock.patch.dict(sys.modules, {"tests.support.tokens": None}),
            self.assertRaisesRegex(BenchError, "tests.support.tokens is not installed"),
        ):
            tokens.check_costs()


class Sharing(SynchronousTestCase):
    def give(self, version_2: bool) -> dict[str, str]:
        """Return the files that are written for process 7."""
        cgroups = Path(self.mktemp())
        (cgroups / "cpu").mkdir(parents=True)
        if version_2:
            (cgroups / "cgroup.controllers").touch()
        with Shares(cgroups) as shares:
            shares.give(7)
            (folder,) = cgroups.rglob("x509proxy-bench-7")
            written = {
                str(path.relative_to(cgroups)): path.read_text("utf-8") for path in folder.iterdir()
            }
            # The kernel's vanish with their folder.
            for path in folder.iterdir():
                path.unlink()
        self.assertFalse(folder.exists())
        return written

    def test_version_1(self) -> None:
        """A fifth of a core, as cgroups of version 1 have it; and nothing of it stays."""
        folder = "cpu/x509proxy-bench-7"
        wanted = {"cpu.cfs_period_us": "10000", "cpu.cfs_quota_us": "2000", "cgroup.procs": "7"}
        self.assertEqual(
            {f"{folder}/{name}": text for name, text in wanted.items()}, self.give(version_2=False)
        )

    def test_version_2(self) -> None:
        """And as those of version 2 have it."""
        folder = "x509proxy-bench-7"
        self.assertEqual(
            {f"{folder}/cpu.max": "2000 10000", f"{folder}/cgroup.procs": "7"},
            self.give(version_2=True),
        )

    def test_not_ours(self) -> None:
        """Where there are no cgroups, or no right to make any, it is one sentence."""
        with (
            self.assertRaisesRegex(BenchError, "takes root and cgroups: .*No such file"),
            Shares(Path("/nowhere")) as shares,
        ):
            shares.give(7)

    def test_table(self) -> None:
        """Medians of the rounds, and in brackets the median of their ratios to the first."""
        text = report.scale(
            [
                Scale(1, [100, 200, 90], [1000, 900, 1100]),
                Scale(2, [190, 400, 189], [2100, 1800, 1100]),
            ]
        )
        self.assertIn("1        100 (1.00)                  1000 (1.00)", text)
        self.assertIn("2        190 (2.00)                  1800 (2.00)", text)


class Hostile(SynchronousTestCase):
    def test_quantile(self) -> None:
        """A quantile is one of the values, and nothing has one of 0."""
        values = [5.0, 1.0, 3.0]
        found = [hostile.quantile(values, part) for part in (0.5, 0.99, 1)]
        self.assertEqual(([3.0, 5.0, 5.0], 0.0), (found, hostile.quantile([], 0.5)))

    def test_row(self) -> None:
        """A line has a load's name, requests, failures, times, memory, and what was sent."""
        found = hostile.Honest(requests=[1.0, 9.0], readyz=[4.0], failed=1, not_ready=2)
        line = hostile.row("none", 2_500_000, found, (1, 2, 3))
        self.assertEqual(
            ["none", "2", "1", "9", "9", "9", "4", "2", "1", "2", "3", "2.5"], line.split()
        )

    def test_register(self) -> None:
        """A load is registered by its name, with the settings that it needs."""
        self.patch(hostile, "LOADS", {})
        hostile.load("quiet", "nothing", "[client]\n")(lambda _target, _seconds: 0)
        (found,) = hostile.LOADS.values()
        self.assertEqual(("quiet", "[client]\n"), (found.name, found.settings))
