"""What every check of ``llamatelemetry doctor`` returns, and how checks run side by side.

Nothing here knows what is checked or how it is shown.
"""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

Status = Literal["ok", "info", "warn", "fail"]
"""``fail`` alone means that telemetry would not arrive, and makes the exit code 1."""


@dataclass(frozen=True)
class Check:
    """One line of the report: what was looked at, what was found, what to do about it."""

    section: str
    status: Status
    title: str
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Job:
    """Checks that may wait for a network or a driver, and what to say when they never end."""

    section: str
    title: str
    run: Callable[[], list[Check]]
    late_status: Status = "fail"


def run_side_by_side(jobs: Sequence[Job], deadline_s: float) -> list[list[Check]]:
    """The checks of each job, in the order given, within `deadline_s` seconds in all.

    A job that is not done by then is reported as such and left behind: its thread is a
    daemon, because nothing can interrupt a name look-up or a driver call that hangs.
    """
    found: dict[int, list[Check]] = {}

    def work(index: int, job: Job) -> None:
        try:
            found[index] = job.run()
        except Exception as error:
            detail = f"the check itself failed: {type(error).__name__}: {error}"
            found[index] = [Check(job.section, "warn", job.title, detail)]

    threads = [
        threading.Thread(target=work, args=pair, daemon=True, name=f"doctor-{pair[1].title}")
        for pair in enumerate(jobs)
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + deadline_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [
        found[index] if index in found else [_too_late(job, deadline_s)]
        for index, job in enumerate(jobs)
    ]


def _too_late(job: Job, deadline_s: float) -> Check:
    return Check(
        job.section,
        job.late_status,
        job.title,
        f"no answer within {deadline_s:g} s",
        "look for a firewall, a proxy or a name server that drops packets",
    )


def nearest(name: str, names: Iterable[str]) -> str:
    """The one of `names` that is most like `name`, or an empty string."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)), "")


def is_true(value: str | None) -> bool:
    """Whether a boolean OpenTelemetry variable is on: only ``true``, in any case, is."""
    return (value or "").strip().lower() == "true"


def without_userinfo(url: str) -> str:
    """`url` fit to be shown: what stands before an ``@`` may be a password."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))
