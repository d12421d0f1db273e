"""The figures of a run, by column, subject and round, with their medians, ratios and spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from statistics import median

import attrs

__all__ = ["Column", "Ratio", "Results"]

_CONFIDENCE = 0.95


@attrs.frozen
class Column:
    """``key`` for programs, ``title`` for people, with the ``unit``."""

    key: str
    title: str
    unit: str


@attrs.frozen
class Ratio:
    """A median of ratios, and the interval that contains the true one with a confidence of 95 %."""

    value: float
    low: float
    high: float


@attrs.define
class Results:
    """``reference``: the subject that the others are compared with.

    A column has a figure for each subject and round; if one is missing, ``remarks`` state why.
    """

    subjects: Sequence[str]
    reference: str
    columns: list[Column] = attrs.field(factory=list)
    figures: dict[tuple[str, str], dict[int, float]] = attrs.field(factory=dict)
    remarks: list[str] = attrs.field(factory=list)

    def add(self, column: Column, subject: str, number: int, figure: float) -> None:
        """Keep the figure of one round."""
        if column not in self.columns:
            self.columns.append(column)
        self._rounds(column.key, subject)[number] = figure

    def _rounds(self, column: str, subject: str) -> dict[int, float]:
        return self.figures.setdefault((column, subject), {})

    def remark(self, sentence: str) -> None:
        """Keep a sentence, once."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)

    def figure(self, column: str, subject: str) -> float | None:
        """Return the median of the rounds."""
        rounds = self._rounds(column, subject)
        return median(rounds.values()) if rounds else None

    def ratio(self, column: str, subject: str, reference: str | None = None) -> Ratio | None:
        """Divide subject by reference, round by round: a change between rounds affects both.

        Below one, the subject needs less than the reference.
        """
        own = self._rounds(column, subject)
        other = self._rounds(column, reference or self.reference)
        ratios = sorted(own[number] / other[number] for number in own.keys() & other.keys())
        if not ratios:
            return None
        outside = _outside(len(ratios))
        return Ratio(median(ratios), ratios[outside], ratios[-1 - outside])

    def as_json(self) -> Mapping[str, object]:
        """Return all figures, by column, subject and round."""
        return {
            "reference": self.reference,
            "remarks": self.remarks,
            "columns": {
                column.key: {
                    "title": column.title,
                    "unit": column.unit,
                    "subjects": {
                        subject: self._one_as_json(column.key, subject) for subject in self.subjects
                    },
                }
                for column in self.columns
            },
        }

    def _one_as_json(self, column: str, subject: str) -> Mapping[str, object]:
        ratio = self.ratio(column, subject)
        return {
            "median": self.figure(column, subject),
            "ratio": attrs.astuple(ratio) if ratio else None,
            "rounds": self._rounds(column, subject),
        }


def _outside(count: int) -> int:
    """Count the ratios on each side that lie outside the interval of the sign test.

    The test assumes no distribution. Up to eight rounds the count is 0: the interval is the lowest
    and the highest ratio. Up to five rounds its confidence is less than 95 %.
    """
    outside, tail = 0, 1 / 2**count
    while 2 * (tail := tail + comb(count, outside + 1) / 2**count) <= 1 - _CONFIDENCE:
        outside += 1
    return outside
