import pytest
import torch
from conftest import small

from experiments.advice import explain


def test_a_real_failed_allocation_is_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert "out of memory in" in explain(caught.value, small())
