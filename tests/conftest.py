"""Shared by all tests: one thread, no user's settings, and the real clips where there are some."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real clips, named by REPRO_REAL_DATA; without it the test is skipped."""
    folder = os.environ.get("REPRO_REAL_DATA", "")
    if not folder:
        pytest.skip("REPRO_REAL_DATA is not set: no real clips")
    if not Path(folder).is_dir():
        pytest.fail(f"REPRO_REAL_DATA is {folder}, which is no folder")
    return Path(folder)
