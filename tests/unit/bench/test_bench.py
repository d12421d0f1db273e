"""Promises of ``bench``: what it reads off other programs, what it computes, and how it says so."""

from __future__ import annotations

import json
import os
import sys
from base64 import b64encode
from pathlib import Path
from unittest import mock
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from bench import load, measure, plot, proof, report
from bench.growth import Curve, Tail
from bench.results import Column, Results
from bench.scale import Scale, Shares
from bench.stage import BenchError

_STAT = "{pid} ({name}) S {parent} 1 1 0 -1 4194560 9 0 0 0 {times} 20 0 1 0 8315 2 2 3\n"


def stat(pid: int, parent: int, times: str = "0 0 0 0", name: str = "nginx") -> measure.Stat:
    return measure.parse_stat(_STAT.format(pid=pid, name=name, parent=parent, times=times))


class Proc(SynchronousTestCase):
    def test_stat(self) -> None:
        """CPU is user and system time, of the process and of its children that have ended."""
        self.assertEqual(measure.Stat(parent=7, ticks=1234), stat(9, 7, "1000 200 30 4"))

    def test_name(self) -> None:
        """A program's name may look like anything."""
        self.assertEqual(stat(9, 7, "1 2 3 4"), stat(9, 7, "1 2 3 4", name="a) S 1 (b"))

    def test_descendants(self) -> None:
        """Children's children count, whatever the order of their numbers; strangers do not."""
        stats = {1: stat(1, 0), 9: stat(9, 1), 3: stat(3, 9), 4: stat(4, 3), 5: stat(5, 1)}
        self.assertEqual({9, 3, 4}, measure.descendants(9, stats))

    def test_resident(self) -> None:
        """Resident memory is in KiB, and none for a process that is ending."""
        self.assertEqual(
            34567, measure.parse_resident("Name:\tx\nVmHWM:\t   40000 kB\nVmRSS:\t   34567 kB\n")
        )
        self.assertEqual(0, measure.parse_resident("Name:\tx\nState:\tZ (zombie)\n"))

    def test_for_real(self) -> None:
        """What this process does is seen in its own figures."""

        def work() -> float:
            end = os.times().user + 0.1
            while os.times().user < end:
                pass
            return 5

        done, cpu = measure.cpu_of([os.getpid()], work)
        self.assertEqual(5, done)
        self.assertGreater(cpu, 0.05)
        self.assertGreater(measure.resident_kib(os.getpid()), 1000)

    def test_aftermath(self) -> None:
        """CPU that is used after the work has been answered is counted too."""
        used = iter([1.0, 2.0, 2.5, 2.75, 2.75])
        with (
            mock.patch.object(measure, "cpu_seconds", lambda _pid: next(used)),
            mock.patch("time.sleep"),
        ):
            self.assertEqual((1, 1.75), measure.cpu_of([1], lambda: 1))


AB = """Complete requests:      {done}
Failed requests:        {failed}
   (Connect: 0, Receive: 0, Length: {failed}, Exceptions: 0)
{other}Total transferred:      376500 bytes
"""
WRK = """Running 3s test @ http://127.0.0.1:9771/token
  Latency Distribution
     50%  {median}
     99%  {p99}
  25917 requests in {time}, 5.12MB read
{errors}Requests/sec:   5174.42
"""


class Loads(SynchronousTestCase):
    def test_ab(self) -> None:
        """What ``ab`` completed counts."""
        self.assertEqual(1500, load.parse_ab(AB.format(done=1500, failed=0, other="")))

    def test_ab_fails(self) -> None:
        """A request that failed, or was answered with an error, is no measurement; nor is none at all."""
        for text in (
            AB.format(done=1500, failed=1, other=""),
            AB.format(done=1500, failed=0, other="Non-2xx responses:      2\n"),
            AB.format(done=0, failed=0, other=""),
            "SSL handshake failed (1).\n",
        ):
            with self.assertRaises(BenchError):
                load.parse_ab(text)

    def test_wrk(self) -> None:
        """``wrk`` gives times in whatever unit fits."""
        text = WRK.format(median="1.20ms", p99="910.00us", time="3.02s", errors="")
        self.assertEqual(load.Wrk(25917, 3.02, 0.91), load.parse_wrk(text))
        text = WRK.format(median="1.20ms", p99="1.51s", time="1.00m", errors="")
        self.assertEqual(load.Wrk(25917, 60.0, 1510.0), load.parse_wrk(text))

    def test_wrk_without_latency(self) -> None:
        """Without ``--latency`` there is none."""
        self.assertEqual(load.Wrk(7, 1.0), load.parse_wrk("  7 requests in 1.00s, 1.00KB read\n"))

    def test_wrk_fails(self) -> None:
        """Answers that are errors, connections that fail and no answer at all are no measurement."""
        for errors in (
            "  Non-2xx or 3xx responses: 3\n",
            "  Socket errors: connect 0, read 4, write 0, timeout 0\n",
        ):
            with self.assertRaisesRegex(BenchError, errors.strip()):
                load.parse_wrk(WRK.format(median="1ms", p99="2ms", time="1.00s", errors=errors))
        with self.assertRaises(BenchError):
            load.parse_wrk("  0 requests in 1.00s, 0.00B read\n")


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
        """An empty value is no certificate, and neither is what Apache says then."""
        self.assertEqual([b"", b""], [proof.certificate_in(""), proof.certificate_in("(null)")])

    def test_rubbish(self) -> None:
        """A forged value that came through does not pass for none."""
        for value in ("forged", "forged*00"):
            with self.assertRaises(BenchError):
                proof.certificate_in(value)

    def test_told(self) -> None:
        """One field with the certificate, whatever else there is."""
        value = b64encode(self.DER).decode()
        self.assertEqual(self.DER, proof.told([["Host", "x"], ["X-Cert", value]], "x-cert"))
        self.assertEqual(b"", proof.told([["Host", "x"]], "X-Cert"))

    def test_twins(self) -> None:
        """Two are one too many, in another spelling too."""
        for twin in ("X-Cert", "x_cert"):
            with self.assertRaisesRegex(BenchError, "2 certificate headers"):
                proof.told([["X-Cert", ""], [twin, ""]], "X-Cert")


def results() -> Results:
    found = Results(
        [Column("a", "all", "µs"), Column("b", "bulk", "ms")], ["nginx", "ours"], "nginx"
    )
    for nginx, ours in ((10, 20), (100, 50), (30, 30)):
        found.add("a", "nginx", nginx)
        found.add("a", "ours", ours)
    found.add("b", "nginx", 1234)
    found.add("b", "ours", None)
    return found


class Figures(SynchronousTestCase):
    def test_median(self) -> None:
        """A figure is the median of its rounds."""
        self.assertEqual((30, 30), (results().figure("a", "nginx"), results().figure("a", "ours")))

    def test_ratio(self) -> None:
        """A ratio is the median of the rounds' own ratios, not the ratio of two medians."""
        found = results()
        found.add("a", "nginx", 100)
        found.add("a", "ours", 50)
        self.assertEqual(1.5, found.ratio("a", "ours"))
        self.assertEqual(1.0, found.ratio("a", "nginx"))

    def test_unknown(self) -> None:
        """What could not be measured has no figure and no ratio, and spoils no other round's."""
        found = results()
        self.assertEqual((None, None), (found.figure("b", "ours"), found.ratio("b", "ours")))
        found.add("b", "nginx", 1000)
        found.add("b", "ours", 2000)
        self.assertEqual((2000, 0.5), (found.figure("b", "ours"), found.ratio("b", "ours")))

    def test_json(self) -> None:
        """Every round's figure is kept."""
        self.assertEqual([20, 50, 30], json.loads(json.dumps(results().as_json()))["a"]["ours"])

    def test_remarks(self) -> None:
        """A remark is made once."""
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
        """Each cell has its figure and the ratio, or a dash; and what was left out is said."""
        found = results()
        found.remark("apache is left out: apache2 is not installed.")
        lines = report.table(found).splitlines()
        self.assertEqual(["nginx", "30.0", "(1.00)", "1234", "(1.00)"], lines[3].split())
        self.assertEqual(["ours", "30.0", "(1.00)", "—"], lines[4].split())
        self.assertEqual("apache is left out: apache2 is not installed.", lines[-1])

    def test_growth(self) -> None:
        """A row for each step, a column for each subject."""
        lines = report.growth(
            [Curve("fields", [1, 1000], {"nginx": [15.5, 200.2], "ours": [100.4, None]})]
        ).splitlines()
        self.assertEqual(
            [["1", "15.5", "100"], ["1,000", "200", "—"]], [line.split() for line in lines[3:5]]
        )

    def test_latency(self) -> None:
        """Who got how many requests answered, and how late the last hundredth."""
        lines = report.latency(Tail(2000.0, {"ours": 3.456}, {"ours": 1990.4})).splitlines()
        self.assertEqual(["ours", "1990", "3.46"], lines[5].split())

    def test_plot(self) -> None:
        """Without matplotlib there is no plot, and a sentence that says so."""
        with mock.patch.dict(sys.modules, {"matplotlib": None, "matplotlib.figure": None}):
            self.assertIn("not installed", plot.draw(Path("never.svg"), results(), []))
        self.assertFalse(Path("never.svg").exists())


class Sharing(SynchronousTestCase):
    def give(self, version_2: bool) -> dict[str, str]:
        """What is written for process 7, and where."""
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
