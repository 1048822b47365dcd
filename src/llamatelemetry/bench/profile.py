"""How much is measured."""

from __future__ import annotations

from enum import Enum


class BenchmarkProfile(Enum):
    """How many requests warm up and how many are measured, in all: prompts are taken in turn.

    ==============  =======  ====  ===================================================
    profile         warm-up  runs  good for
    ==============  =======  ====  ===================================================
    ``QUICK``             2    10  whether it works, and medians
    ``STANDARD``         10    50  medians and 90 % quantiles
    ``THOROUGH``         20   200  95 % quantiles, and telling 10 % of a difference
    ==============  =======  ====  ===================================================
    """

    QUICK = (2, 10)
    STANDARD = (10, 50)
    THOROUGH = (20, 200)

    @property
    def warmup(self) -> int:
        """Requests before the measured ones."""
        return self.value[0]

    @property
    def runs(self) -> int:
        """Measured requests."""
        return self.value[1]
