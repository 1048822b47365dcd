"""The result of a check, and the function that runs slow checks in parallel."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from llamatelemetry.otel.process.deadline import Deadline, run_side_by_side

SERVER = "Server"
"""Section of the inference server, which does not affect the export."""

EXPORTER = "Exporter"

Status = Literal["ok", "info", "warn", "fail"]
"""Only `fail` makes the exit status 1."""

Effect = Literal["", "arrives", "fails", "off", "unknown", "blocks", "unsampled", "uninstrumented"]
"""What a check means for the telemetry; empty if nothing.

`arrives`, `fails`, `off` and `unknown` are those of one signal, which is the title of the check.
`blocks`: OpenTelemetry is not set up. `unsampled`: no span is recorded. `uninstrumented`: only the
application's own spans are recorded.
"""


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        title: Subject of the check, such as a signal or a distribution.
        detail: Finding, without a final period.
        remedy: What to do, beginning with a verb; empty if there is nothing to do.
        section: Heading above the line; see `in_section`.
        effect: What it means for the telemetry, for the verdict.
    """

    status: Status
    title: str
    detail: str
    remedy: str = ""
    section: str = ""
    effect: Effect = ""


def in_section(section: str, checks: Iterable[Check]) -> list[Check]:
    """Return the checks with their section set."""
    return [replace(check, section=section) for check in checks]


@dataclass(frozen=True)
class Job:
    """Checks that may wait for a network or a driver.

    A job that does not end in time is a line with `title` and `late_status`.
    """

    section: str
    title: str
    run: Callable[[], list[Check]]
    late_status: Status = "fail"


def run_in_parallel(jobs: Sequence[Job], deadline_s: float) -> list[list[Check]]:
    """Run the jobs in parallel and return the checks of each, in the given order.

    A job that takes longer is abandoned: a name lookup or a driver call cannot be interrupted.
    """
    found: dict[int, list[Check]] = {}

    def work(index: int, job: Job) -> None:
        try:
            found[index] = job.run()
        except Exception as error:
            detail = f"the check itself failed: {type(error).__name__}: {error}"
            found[index] = [Check("warn", job.title, detail)]

    steps = {f"doctor-{i}": partial(work, i, job) for i, job in enumerate(jobs)}
    run_side_by_side(steps, Deadline(deadline_s))
    late = f"no response within {deadline_s:g} s"
    remedy = "Check for a firewall, proxy or DNS server that drops packets"
    return [
        in_section(job.section, found.get(i, [Check(job.late_status, job.title, late, remedy)]))
        for i, job in enumerate(jobs)
    ]


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the entry of `names` most similar to `name`, or an empty string."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)), "")


def is_true(value: str | None) -> bool:
    """Return whether a boolean OpenTelemetry variable is on: only `true`, in any case."""
    return (value or "").strip().lower() == "true"
