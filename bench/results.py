"""What came out: figures by column, subject and round, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import attrs

__all__ = ["Column", "Results"]


@attrs.frozen
class Column:
    """``key`` for programs, ``title`` for people, who are also told the ``unit``."""

    key: str
    title: str
    unit: str


@attrs.define
class Results:
    """``reference``: the subject that the others are compared with.

    Of a column and a subject there is a figure for each round, ``None`` where none could be measured; ``remarks`` say why.
    """

    columns: Sequence[Column]
    subjects: Sequence[str]
    reference: str
    figures: dict[tuple[str, str], list[float | None]] = attrs.field(factory=dict)
    remarks: list[str] = attrs.field(factory=list)

    def add(self, column: str, subject: str, figure: float | None) -> None:
        """The figure of one more round."""
        self.figures.setdefault((column, subject), []).append(figure)

    def remark(self, sentence: str) -> None:
        """Once, however often it is said."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)

    def figure(self, column: str, subject: str) -> float | None:
        """The median of the rounds."""
        return _median(self.figures.get((column, subject), []))

    def ratio(self, column: str, subject: str) -> float | None:
        """Reference to subject, the median of the rounds' own ratios: what slows a whole round down does not show in it.

        Above one, the subject needs less than the reference.
        """
        pairs = zip(
            self.figures.get((column, self.reference), []),
            self.figures.get((column, subject), []),
            strict=False,
        )
        return _median([reference / own for reference, own in pairs if reference and own])

    def as_json(self) -> Mapping[str, Mapping[str, Sequence[float | None]]]:
        """All figures: by column and subject, a list of rounds."""
        return {
            column.key: {
                subject: self.figures.get((column.key, subject), []) for subject in self.subjects
            }
            for column in self.columns
        }


def _median(figures: Sequence[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return median(known) if known else None
