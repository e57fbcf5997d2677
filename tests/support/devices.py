"""Devices for tests that compare one with fp64 on the CPU."""

import pytest
import torch

DEVICES = (
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
        ],
    ),
)
"""A CPU shows what rounding costs, and that the tests are right; a GPU must not be worse."""
