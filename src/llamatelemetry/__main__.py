"""The console script `llamatelemetry`, and `python -m llamatelemetry`."""

from __future__ import annotations

from llamatelemetry.cli import main

if __name__ == "__main__":
    main()
