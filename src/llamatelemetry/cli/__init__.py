"""The command line `llamatelemetry`. Its packages are imported when it runs."""

from __future__ import annotations

import sys
from typing import Any

from llamatelemetry._optional import MissingPackageError, required_by

__all__ = ["main"]


def main() -> None:
    """Run the command line. Exit status: 0 success, 1 failure, 2 usage error or missing package."""
    # The encoding of the locale may lack characters of tables and file names.
    stdout: Any = sys.stdout
    if getattr(stdout, "errors", None) in {"strict", "surrogateescape"}:
        stdout.reconfigure(errors="replace")
    try:
        with required_by("The command line", "llamatelemetry"):
            from llamatelemetry.cli._app import app

            app()
    except MissingPackageError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
