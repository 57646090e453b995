"""Mode collapse, seen while a run trains."""

import math

import numpy as np
from conftest import small

from analysis.events import Thresholds, find_events
from experiments.tracking.modes import ModeWatch


def test_lost_modes_are_seen_as_the_report_sees_them() -> None:
    """Against `analysis.events`, which reads the same rows afterwards."""
    rng = np.random.default_rng(0)
    seen = 0
    for case in range(300):
        classes = (10, 1000)[case % 2]
        config = small(dataset="digits" if classes == 10 else "stacked_mnist")
        n, quality = int(rng.integers(2, 12)), rng.uniform(5, 40, 12)
        rows = [
            {"step": 10 * i, "eval/fd": quality[i], "eval/effective_modes": classes * rng.uniform(0.3, 1),
             "eval/mode_kl": rng.uniform(0, 0.55), "eval/diversity": rng.uniform(0.45, 1)}
            for i in range(n)
        ]  # fmt: skip
        watch = ModeWatch(config, 37.0)
        told = [row["step"] for row in rows if watch.lost(row)]
        columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
        events = dict(find_events(columns, "finished", classes, 37.0, math.nan, Thresholds()))
        begin = events.get("mode collapse")
        if begin is not None and begin < rows[-1]["step"]:  # what begins at the last evaluation is not told
            assert told == [begin + 10]
            seen += 1
        else:
            assert told == []
    assert seen > 50
    assert not ModeWatch(small(), None).lost(rows[0])
