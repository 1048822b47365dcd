"""The runs of one benchmark, made one by one: alone, or in turns with those of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamatelemetry.bench._driver import Plan
    from llamatelemetry.bench._session import Session
    from llamatelemetry.bench.records import RequestRecord, RunRecord


class Series:
    """What the runs of a benchmark have brought so far.

    Args:
        session: a target that is open and warmed up.
        plan: gives what a run is to do, by its number.
        warnings: of what was wrong before anything was measured.
    """

    def __init__(self, session: Session, plan: Callable[[int], Plan], warnings: list[str]) -> None:
        self._session = session
        self._plan = plan
        self.records: list[RequestRecord] = []
        self.runs: list[RunRecord] = []
        self.warnings = warnings

    def make(self, number: int) -> bool:
        """Make a run; ``False`` when Ctrl-C has ended it, which keeps what was measured by then.

        Raises:
            KeyboardInterrupt: nothing was, in this run or an earlier one.
        """
        try:
            measured = self._session.run(self._plan(number))
        except KeyboardInterrupt:
            if not self.runs:
                raise
            self.runs[-1] = replace(self.runs[-1], interrupted=True)
            self.warnings.append(f"interrupted after {len(self.runs)} runs")
            return False
        self.records += measured.records
        self.runs.append(measured.run)
        self.warnings += measured.warnings
        return not measured.run.interrupted
