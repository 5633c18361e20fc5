"""What all tests share: no network, one thread, no picture windows, and the folder of real data if there is one."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest  # after the variables above, which libraries read when they are imported
from hypothesis import settings

# A change is judged on the same examples wherever it is judged; at a desk every run tries new ones.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("desk", deadline=None)
settings.load_profile("ci" if "CI" in os.environ else "desk")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Returns the folder of real data, `RMLAB_SHARED_DATA` or ../shared/data beside the project; skips without it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RMLAB_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set RMLAB_SHARED_DATA")
    return folder
