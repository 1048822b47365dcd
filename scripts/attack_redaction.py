"""Attack redaction with random telemetry that hides a secret, and print each seed that exports it.

`python scripts/attack_redaction.py --cases 100000 --seed 0` runs the seeds 0 to 99,999. Exits with
1 if a secret was exported. A new leak becomes a rule with a test, or a limit in
`docs/operate/privacy.md`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.otel.redaction.attack import leaks

_STEP = 10_000


def main() -> int:
    """Run the cases of consecutive seeds, and report progress every 10,000 cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first case")
    given = parser.parse_args()
    found, end = 0, given.seed + given.cases
    for start in range(given.seed, end, _STEP):
        stop = min(start + _STEP, end)
        for leak in leaks(range(start, stop)):
            found += 1
            print(leak)
        print(f"seeds {given.seed} to {stop - 1}: {found} leaks", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
