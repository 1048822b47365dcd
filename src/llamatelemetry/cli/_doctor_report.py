"""The report of ``llamatelemetry doctor``: lines for people, or the same checks as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llamatelemetry import __version__
from llamatelemetry.cli._doctor_check import Check

# The word carries the meaning; the colour only helps where there is one.
_STYLES = {"ok": "green", "info": "dim", "warn": "yellow", "fail": "bold red"}
_LABELS = {"ok": "ok", "info": "info", "warn": "warn", "fail": "FAIL"}


def as_json(checks: Sequence[Check]) -> str:
    """One object: ``version``, ``ok`` (telemetry would arrive), and the list of ``checks``."""
    failed = any(check.status == "fail" for check in checks)
    report = {"version": __version__, "ok": not failed, "checks": [asdict(c) for c in checks]}
    return json.dumps(report, indent=2)


def print_report(checks: Sequence[Check], console: Console | None = None) -> None:
    """One line for each check under the heading of its section, then the verdict."""
    console = console or Console(highlight=False)
    for section, members in groupby(checks, lambda check: check.section):
        console.print(Text(section, style="bold"))
        console.print(_table(list(members)))
    console.print(_verdict(checks))


def _table(checks: Sequence[Check]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=6, justify="right")
    table.add_column(overflow="fold")
    shown = ""
    for check in checks:
        line = Text(overflow="fold")
        line.append(f"{check.title}: ", style="bold" if check.status == "fail" else "")
        line.append(check.detail)
        table.add_row(Text(_LABELS[check.status], style=_STYLES[check.status]), line)
        if check.remedy and check.remedy != shown:  # three signals often need the same step
            table.add_row("", Text(f"-> {check.remedy}", style="cyan", overflow="fold"))
        shown = check.remedy
    return table


def _verdict(checks: Sequence[Check]) -> Text:
    failed = sum(check.status == "fail" for check in checks)
    warned = sum(check.status == "warn" for check in checks)
    warnings = f" ({warned} warning{'' if warned == 1 else 's'})" if warned else ""
    if failed:
        return Text(f"Telemetry would NOT arrive: {failed} FAIL above{warnings}.", style="bold red")
    return Text(f"Telemetry would arrive{warnings}.", style="bold green")
