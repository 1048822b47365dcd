"""The console script `llamatelemetry`, and `python -m llamatelemetry`."""

from __future__ import annotations

import sys

from llamatelemetry._optional import MissingPackageError, required_by


def main() -> None:
    """Run the command line. If a package is missing, print the command that installs it."""
    try:
        with required_by("The command line", "llamatelemetry"):
            from llamatelemetry.cli import main as run

            run()
    except MissingPackageError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
