"""Where the shared facts are, and deterministic defaults for every test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def shared_dir(*parts: str) -> Path:
    """A path below the shared folder (fixtures, golden numbers); skips the test with the reason where it is absent."""
    root = Path(os.environ.get("GAZEQWEN_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(
            f"{'/'.join(parts)} absent: set GAZEQWEN_SHARED to the folder with fixtures/ and golden/ to run this"
        )
    return path


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import numpy as np
    import torch

    np.random.seed(0)
    torch.manual_seed(0)
