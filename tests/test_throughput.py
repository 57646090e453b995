"""The throughput of a sweep's workers."""

import pytest

from experiments.bench.throughput import sweep_throughput
from sngan.config import InputError, RunConfig


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_benchmark() -> None:
    with pytest.raises(InputError, match="ended early"):
        sweep_throughput(RunConfig(batch_size=5000), workers=2, threads=1, steps=3)
