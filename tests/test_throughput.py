"""The throughput of a sweep's workers."""

from multiprocessing.context import SpawnProcess

import pytest

from experiments.bench.throughput import sweep_throughput
from sngan.config import InputError, RunConfig


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_benchmark() -> None:
    with pytest.raises(InputError, match="ended early"):
        sweep_throughput(RunConfig(batch_size=5000), workers=2, threads=1, steps=3)


def test_a_signal_before_all_workers_are_there_ends_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SpawnProcess, "start", stopped)
    with pytest.raises(KeyboardInterrupt):
        sweep_throughput(RunConfig(), workers=2, threads=1, steps=3)
