"""rmlab: train reward models with PyTorch Lightning, and score with them.

What it offers is imported when it is first asked for, so that `import rmlab` stays cheap.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rmlab.scoring import Reference, RewardModel, best_of_n, whiten

__version__ = "0.1.0"
__all__ = ["Reference", "RewardModel", "__version__", "best_of_n", "whiten"]

# Read by GNU OpenMP when torch is first imported. Threads that spin while they wait make two runs on one machine as
# slow as a hundred; threads that sleep at once make one run half as fast. These spin briefly, then sleep.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def __getattr__(name: str) -> Any:
    if name in __all__:
        from rmlab import scoring

        return getattr(scoring, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
