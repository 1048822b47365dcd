"""The report of `llamatelemetry doctor`, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llamatelemetry import __version__
from llamatelemetry.cli._text import safe_text
from llamatelemetry.cli.doctor.check import Check
from llamatelemetry.cli.doctor.verdict import verdict_of
from llamatelemetry.config import OPTIONS, LlamaTelemetryConfig

# Color is optional: the labels alone are sufficient.
_STYLES = {"ok": "green", "info": "dim", "warn": "yellow", "fail": "bold red"}
_LABELS = {"ok": "ok", "info": "info", "warn": "warn", "fail": "FAIL"}


def as_json(checks: Sequence[Check], config: LlamaTelemetryConfig) -> str:
    """Return a JSON object.

    Its keys: `version`, `ok` (no check failed), `telemetry` (`arrives`, `partly`, `fails`, `off`
    or `unknown`), `verdict` (a sentence), `checks`, and `options`, with the value and source of
    every option. Secrets are masked.
    """
    verdict = verdict_of(checks)
    options = {name: config.option_value(name) for name in OPTIONS}
    report = {
        "version": __version__,
        "ok": all(check.status != "fail" for check in checks),
        "telemetry": verdict.telemetry,
        "verdict": verdict.text,
        "checks": [_row(check) for check in checks],
        "options": {
            name: {"value": OPTIONS[name].default_doc, "source": "default"}
            if given is None
            else {"value": OPTIONS[name].shown(given.value), "source": given.origin}
            for name, given in options.items()
        },
    }
    return json.dumps(report, indent=2)


def _row(check: Check) -> dict[str, str]:
    row = asdict(check)
    del row["effect"]  # the verdict states it
    return row


def print_report(checks: Sequence[Check], console: Console | None = None) -> None:
    """Print one line for each check under its section, then the verdict."""
    console = console or Console(highlight=False)
    for section, members in groupby(checks, lambda check: check.section):
        console.print(safe_text(section, "bold"))
        console.print(_table(list(members)))
    verdict = verdict_of(checks)
    failed = verdict.telemetry == "fails" or any(check.status == "fail" for check in checks)
    console.print(Text(verdict.text, style="bold red" if failed else "bold green"))


def _table(checks: Sequence[Check]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=6, justify="right")
    table.add_column(overflow="fold")
    shown = ""
    for check in checks:
        line = Text(overflow="fold")
        line.append_text(safe_text(f"{check.title}: ", "bold" if check.status == "fail" else ""))
        line.append_text(safe_text(check.detail))
        table.add_row(Text(_LABELS[check.status], style=_STYLES[check.status]), line)
        if check.remedy and check.remedy != shown:  # all three signals often have the same remedy
            table.add_row("", safe_text(f"-> {check.remedy}", "cyan"))
        shown = check.remedy
    return table
