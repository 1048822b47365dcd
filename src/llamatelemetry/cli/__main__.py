"""``python -m llamatelemetry.cli``: the command line without its script."""

from llamatelemetry.cli import main

main()
