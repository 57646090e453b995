"""Where W&B has something else than the records."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from conftest import rewrite_end

from experiments.record import Record

Command = Callable[..., tuple[int, str, str]]


def test_what_wandb_has_otherwise_is_named(study_folder: Path, command: Command) -> None:
    arguments = ("status", "tiny", "--check-wandb", "--runs-dir", study_folder.parent)
    code, output, _ = command(*arguments)
    assert (code, output) == (0, "5 runs compared with W&B: 0 differences\n")
    changed = Record(next(study_folder.glob("digits-sn-C-s01-*")))
    rows = changed.rows()
    rows[2]["loss/d"] += 0.25
    del rows[4]
    changed.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rewrite_end(changed, changed.status() | {"metrics_sha256": changed.metrics_sha256()})
    shutil.rmtree(next(study_folder.glob("wandb/*-dcgan-C-s02-*")))
    code, output, _ = command(*arguments, "--json")
    found = json.loads(output)
    assert code == 1
    assert found["compared"] == 4
    lost, sha, missing, loss = found["differences"]
    assert lost.endswith("W&B does not have it")
    assert "metrics_sha256 is" in sha
    assert missing == f"{changed.run_id}: 1 rows are not in the record, the first at step 40"
    assert loss.startswith(f"{changed.run_id}: loss/d differs at 1 of 6 steps, first at step 20: ")
    changed.write_status(changed.status() | {"state": "running"})
    with changed.claim() as mine:
        assert mine
        code, output, _ = command(*arguments)
    assert "4 runs compared" not in output  # one of them trains right now
    assert "state is" not in output
    shutil.rmtree(study_folder / "wandb")
    code, _, errors = command(*arguments)
    assert code == 2
    assert "trained with --wandb disabled" in errors
