"""Run scenarios, configured by environment variables: `python -m tests.canary NAME ...`."""

from __future__ import annotations

import logging
import sys

import llamatelemetry
from tests.canary import scenarios

if __name__ == "__main__":
    logging.getLogger("llamatelemetry").addHandler(logging.StreamHandler(sys.stderr))
    logging.getLogger().addHandler(logging.NullHandler())
    llamatelemetry.init()
    logging.getLogger("llamatelemetry").setLevel(logging.DEBUG)
    for name in sys.argv[1:]:
        getattr(scenarios, name)()
    sys.exit(not (llamatelemetry.flush(60) and llamatelemetry.shutdown(60)))
