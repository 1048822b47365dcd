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
from llamatelemetry.cli.doctor.check import SERVER, Check
from llamatelemetry.cli.doctor.exporters import NO_EXPORT
from llamatelemetry.config import OPTIONS, LlamaTelemetryConfig

# Color is optional: the labels alone are sufficient.
_STYLES = {"ok": "green", "info": "dim", "warn": "yellow", "fail": "bold red"}
_LABELS = {"ok": "ok", "info": "info", "warn": "warn", "fail": "FAIL"}


def as_json(checks: Sequence[Check], config: LlamaTelemetryConfig) -> str:
    """Return a JSON object.

    Its keys: `version`, `ok` (no check failed), `checks`, and `options`, with the value and source
    of every option. Secrets are masked.
    """
    options = {name: config.option_value(name) for name in OPTIONS}
    report = {
        "version": __version__,
        "ok": all(check.status != "fail" for check in checks),
        "checks": [asdict(check) for check in checks],
        "options": {
            name: {"value": OPTIONS[name].default_doc, "source": "default"}
            if given is None
            else {"value": OPTIONS[name].shown(given.value), "source": given.origin}
            for name, given in options.items()
        },
    }
    return json.dumps(report, indent=2)


def print_report(checks: Sequence[Check], console: Console | None = None) -> None:
    """Print one line for each check under its section, then the conclusion."""
    console = console or Console(highlight=False)
    for section, members in groupby(checks, lambda check: check.section):
        console.print(safe_text(section, "bold"))
        console.print(_table(list(members)))
    console.print(_conclusion(checks))


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


def _conclusion(checks: Sequence[Check]) -> Text:
    """Return whether telemetry would be exported, and which sections failed."""
    failed = [check.section for check in checks if check.status == "fail"]
    warned = sum(check.status == "warn" for check in checks)
    warnings = f" ({warned} warning{'' if warned == 1 else 's'})" if warned else ""
    # A failure of the inference server does not affect the export.
    export = "OK" if all(section == SERVER for section in failed) else "FAILED"
    if any(check.detail == NO_EXPORT for check in checks):
        export = "off"
    if not failed:
        return Text(f"Export: {export}{warnings}.", style="bold green")
    count = f"{len(failed)} check{'' if len(failed) == 1 else 's'} failed"
    sections = ", ".join(dict.fromkeys(failed))
    return Text(f"Export: {export}. {count}: {sections}{warnings}.", style="bold red")
