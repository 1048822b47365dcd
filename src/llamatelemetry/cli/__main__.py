"""Entry point of `python -m llamatelemetry.cli`."""

from llamatelemetry.cli import main

main()
