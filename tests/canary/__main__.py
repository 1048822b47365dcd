"""`python -m tests.canary openai_operations ...`: holds talks, set up by the environment alone."""

from __future__ import annotations

import logging
import sys

import llamatelemetry
from tests.canary import talks

if __name__ == "__main__":
    logging.getLogger("llamatelemetry").addHandler(logging.StreamHandler(sys.stderr))
    logging.getLogger().addHandler(logging.NullHandler())
    llamatelemetry.init()
    logging.getLogger("llamatelemetry").setLevel(logging.DEBUG)
    for name in sys.argv[1:]:
        getattr(talks, name)()
    sys.exit(not (llamatelemetry.flush(60) and llamatelemetry.shutdown(60)))
