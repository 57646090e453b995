"""FID beside our distances: of the samples of the last evaluation, on the scale of reals and the trivial sampler.

Inception is a stand-in here, random products of the pixels, but for one test with torch-fidelity's network.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import rewrite_end, small
from torch import Tensor

from experiments import bridge
from experiments.bridge import rank_correlations, samples
from experiments.export import networks
from experiments.record import Record
from experiments.run import execute
from sngan.config import InputError
from sngan.data import load
from sngan.inception import FILE, SHA256
from sngan.streams import torch_generator

DISTANCES = ("fd", "kd", "fd_pixels", "fid", "kid")


class StandIn:
    """In Inception's place: features (N, 40) that mean nothing."""

    name, sha256, n_features = "a stand-in", "0" * 64, 40

    def __init__(self, weights: str = "given", device: object = "cpu") -> None:
        if not weights:
            raise InputError("no weights")
        self.seen: list[Tensor] = []
        self._products = torch.randn(28 * 28, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def embed(self, images: Tensor) -> Tensor:
        x = images.double() / 127.5 - 1 if images.dtype == torch.uint8 else images.double()
        self.seen.append(x)
        return (x[:, 0].flatten(1) @ self._products).float()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNGAN_INCEPTION", raising=False)
    monkeypatch.setattr(bridge, "Inception", StandIn)


def trained(folder: Path, **changes: object) -> Record:
    config = small(**{"init": "dcgan", **changes})
    execute(config, "single", folder / "single", lambda message: None)
    return Record(folder / "single" / config.run_id)


@pytest.fixture(scope="session")
def _runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bridge") / "runs"
    for seed in range(3):
        trained(folder, seed=seed, steps=10 * (seed + 1))
    return folder


@pytest.fixture
def runs(_runs: Path) -> list[Record]:
    """Three, to be read only."""
    return [Record(path) for path in sorted((_runs / "single").iterdir()) if path.is_dir()]


@pytest.fixture
def judged(command: Callable, stand_in: None) -> Callable[..., dict[str, Any]]:
    def run(*arguments: object) -> dict[str, Any]:
        code, output, errors = command("fid", *arguments, "--inception-weights", "x", "--device", "cpu", "--json")
        assert code == 0, errors
        return json.loads(output)

    return run


# --- what the numbers are ---


def test_samples_and_scale_are_those_of_the_last_evaluation(judged: Callable, runs: list[Record]) -> None:
    found = judged(runs[0].folder)
    recorded, protocol = runs[0].rows()[-1], runs[0].protocol()
    (row,) = found["runs"]
    assert (row["run_id"], row["n"]) == (runs[0].run_id, 100)
    for name in ("fd", "kd", "fd_pixels"):
        assert row[name] == pytest.approx(recorded[f"eval/{name}"], rel=1e-5, abs=1e-6)
        for scale in ("real_against_real", "trivial_sampler"):
            assert found[scale][name] == pytest.approx(protocol[scale][name], rel=1e-5, abs=1e-6)
            assert found[scale]["n"] == protocol[scale]["n"]
    assert found["feature_net_sha256"] == protocol["feature_net_sha256"]
    assert found["inception_sha256"] == StandIn.sha256


def test_fewer_samples_are_the_first_ones_and_more_begin_with_them(runs: list[Record]) -> None:
    config, G = runs[0].config(), networks(runs[0])[0]
    z = torch.randn(100, config.z_dim, generator=torch_generator(config.seed, "evaluation"))
    with torch.no_grad():
        expected = G(z)
    for n in (30, 100, 130):
        images = torch.cat(list(samples(config, G, n)))
        assert len(images) == n
        assert not images.requires_grad
        torch.testing.assert_close(images[:100], expected[:n], rtol=0, atol=1e-5)


def test_of_one_set_of_samples_are_all_scores(
    judged: Callable, runs: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FID and KID by numpy, from what the stand-in saw."""
    made: list[StandIn] = []
    monkeypatch.setattr(bridge, "Inception", lambda *_: made.append(StandIn()) or made[-1])
    found = judged(runs[1].folder, "--n", 60)
    seen = torch.cat(made[0].seen)
    reals, others, trivial, fakes = seen.split(60)
    assert torch.equal(fakes.float(), torch.cat(list(samples(runs[1].config(), networks(runs[1])[0], 60))))
    digits = load("digits").images.double() / 127.5 - 1
    known = {image.numpy().tobytes() for image in digits}
    assert all(image.numpy().tobytes() in known for image in torch.cat([reals, others]))
    assert not {image.numpy().tobytes() for image in reals} & {image.numpy().tobytes() for image in others}
    assert trivial.abs().max() <= 1
    embed = lambda images: StandIn().embed(images).double().numpy()  # noqa: E731
    a, b = embed(reals), embed(fakes)
    covariances = np.cov(a.T), np.cov(b.T)
    roots = np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex) ** 0.5
    fid = ((a.mean(0) - b.mean(0)) ** 2).sum() + sum(map(np.trace, covariances)) - 2 * roots.real.sum()
    assert found["runs"][0]["fid"] == pytest.approx(fid, rel=1e-6)
    kernels = [(x @ y.T / 40 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    within = [(k.sum() - np.trace(k)) / (60 * 59) for k in kernels[:2]]
    assert found["runs"][0]["kid"] == pytest.approx(sum(within) - 2 * kernels[2].mean(), rel=1e-6)


def test_real_images_are_nearer_to_real_ones_than_samples_are(judged: Callable, runs: list[Record]) -> None:
    found = judged(runs[0].folder, "--n", 400)
    for name in DISTANCES:
        assert found["real_against_real"][name] < 0.5 * found["runs"][0][name]
        assert found["real_against_real"][name] < found["trivial_sampler"][name]


def test_runs_are_ranked(judged: Callable, runs: list[Record]) -> None:
    found = judged(*(run.folder for run in runs))
    assert [row["run_id"] for row in found["runs"]] == [run.run_id for run in runs]
    ranks = {name: np.argsort(np.argsort([row[name] for row in found["runs"]])) for name in DISTANCES}
    for one, other in (("fd", "fd_pixels"), ("fd", "fid"), ("fd_pixels", "fid")):
        expected = np.corrcoef(ranks[one], ranks[other])[0, 1]
        assert found["spearman"][f"{one}, {other}"] == pytest.approx(expected)
    assert found["spearman"]["n"] == 3
    assert judged(*(run.folder for run in runs[:2]))["spearman"] == {}


def rows_of(**columns: list[float]) -> list[dict[str, float]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_rank_correlations_are_spearmans() -> None:
    """Reversed -1; his formula 1 - 6 sum d^2 / (n (n^2 - 1)); none where one never changes or is not a number."""
    found = rank_correlations(rows_of(fd=[1, 2, 3, 4], fd_pixels=[40, 30, 20, 10], fid=[1, 20, 10, 50]))
    assert found == {"n": 4, "fd, fd_pixels": pytest.approx(-1), "fd, fid": pytest.approx(0.8),
                     "fd_pixels, fid": pytest.approx(-0.8)}  # fmt: skip
    found = rank_correlations(rows_of(fd=[1, 2, 3, math.nan], fd_pixels=[5, 5, 5, 5], fid=[1, 2, 3, 0]))
    assert (found["n"], found["fd, fid"]) == (3, pytest.approx(1))
    assert math.isnan(found["fd, fd_pixels"])
    assert rank_correlations(rows_of(fd=[1, math.nan, 2], fd_pixels=[1, 2, 3], fid=[1, 2, 3])) == {}


def test_samples_that_are_not_finite_have_no_score(
    judged: Callable, command: Callable, runs: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    G, D = networks(runs[0])
    with torch.no_grad():
        next(G.parameters()).fill_(torch.nan)
    monkeypatch.setattr(bridge, "networks", lambda record: (G, D))
    found = judged(runs[0].folder)
    assert [found["runs"][0][name] for name in DISTANCES] == [None] * 5
    assert found["real_against_real"]["fid"] > 0
    code, output, _ = command("fid", runs[0].folder, "--inception-weights", "x")
    assert code == 0
    assert output.count("not finite") == 5


# --- what is shown ---


def test_the_table(stand_in: None, command: Callable, runs: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNGAN_INCEPTION", "x")
    code, output, errors = command("fid", *(run.run_id for run in runs), "--runs-dir", runs[0].folder.parents[1])
    assert code == 0
    lines = output.splitlines()
    assert lines[0].split() == ["run", "n", "fd", "kd", "fd_pixels", "FID", "KID"]
    assert [line.split()[0] for line in lines[1:4]] == [run.run_id for run in runs]
    assert lines[4].startswith("real against real ")
    assert lines[5].startswith("trivial sampler ")
    assert all(float(cell) > -1 for line in lines[1:4] for cell in line.split()[1:])
    assert "digits's yardstick" in output
    assert StandIn.sha256 in output
    assert "Spearman's rank correlation over 3 runs: fd and fd_pixels " in output
    for i, name in enumerate(("real images", "other real images", "trivial sampler", *(r.run_id for r in runs)), 1):
        assert f"{i} of 6, {name}: images judged: 100/100" in errors
    assert "warning" not in errors


def test_too_few_samples_for_fid_are_said(
    stand_in: None, command: Callable, runs: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A covariance of n samples has rank n - 1."""
    for n_features, warned in ((59, False), (60, True)):
        monkeypatch.setattr(StandIn, "n_features", n_features)
        _, _, errors = command("fid", runs[0].folder, "--n", 60, "--inception-weights", "x")
        assert ("warning: 60 samples" in errors) == warned


# --- what is refused ---


def test_without_weights_it_says_what_is_needed(
    command: Callable, runs: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SNGAN_INCEPTION", raising=False)
    code, output, errors = command("fid", runs[0].folder)
    assert (code, output) == (2, "")
    for word in ("--inception-weights", "SNGAN_INCEPTION", FILE, SHA256, "pip install -e '.[fid]'"):
        assert word in errors


def test_other_weights_are_refused(command: Callable, runs: list[Record], tmp_path: Path) -> None:
    (path := tmp_path / "weights.pth").write_bytes(b"something")
    os.mkfifo(pipe := tmp_path / "pipe")
    for given, message in ((path, hashlib.sha256(b"something").hexdigest()), (tmp_path, "not a file"),
                           (tmp_path / "none", "there is no file"), (pipe, "not a file")):  # fmt: skip
        start = time.monotonic()
        code, output, errors = command("fid", runs[0].folder, "--inception-weights", given)
        assert (code, output) == (2, "")
        assert message in errors
        assert time.monotonic() - start < 60


def test_a_run_that_has_not_ended_is_refused(stand_in: None, command: Callable, tmp_path: Path) -> None:
    record = trained(tmp_path)
    folder, given = record.folder, ("--inception-weights", "x")
    rewrite_end(record, record.status() | {"state": "diverged", "error": "non-finite: loss/d"})
    assert command("fid", folder, *given)[0] == 0
    checkpoint = record.checkpoint_path.read_bytes()
    record.checkpoint_path.write_bytes(b"not a checkpoint")
    assert "not readable" in command("fid", folder, *given)[2]
    record.checkpoint_path.unlink()
    code, _, errors = command("fid", folder, *given)
    assert code == 2
    assert "has no weights" in errors
    record.write_status(record.status() | {"state": "interrupted", "error": "SIGTERM"})
    code, _, errors = command("fid", folder, *given)
    assert code == 2
    assert f"{record.run_id} has no final weights: it is interrupted (SIGTERM)" in errors
    record.checkpoint_path.write_bytes(checkpoint)
    record.config_path.write_text("{")
    code, _, errors = command("fid", folder, *given)
    assert code == 2
    assert "config.json" in errors


def test_a_run_that_was_judged_otherwise_is_refused(stand_in: None, command: Callable, tmp_path: Path) -> None:
    record = trained(tmp_path)
    protocol = record.protocol()
    for name in ("feature_net_sha256", "reference_sha256"):
        record.write_protocol(protocol | {name: "f" * 64})
        code, _, errors = command("fid", record.folder, "--inception-weights", "x")
        assert code == 2
        assert f"was judged otherwise: {name} is {'f' * 64} in its protocol.json, and {protocol[name]} here" in errors
    record.write_protocol({})  # it diverged before its first evaluation
    assert command("fid", record.folder, "--inception-weights", "x")[0] == 0


def test_runs_that_cannot_be_compared_are_refused(
    stand_in: None, command: Callable, runs: list[Record], tmp_path: Path
) -> None:
    other = trained(tmp_path, n_fake=60)
    stranger = Record(tmp_path / "stranger")
    stranger.folder.mkdir()
    stranger.write_status(other.status())
    config = replace(small(), dataset="mnist")
    stranger.config_path.write_text(json.dumps(config.identity()))
    for arguments, message in (
        ([], "name a run"),
        (["nothing"], "no run 'nothing'"),
        ([runs[0].folder, runs[0].folder], f"{runs[0].run_id} is named twice"),
        ([runs[0].folder, stranger.folder], "of digits and mnist: distances are compared within one data set"),
        ([runs[0].folder, other.folder], "judged by 60 and 100 samples, on which distances depend: give --n"),
        ([runs[0].folder, "--n", 1798], "expected 20 to 1,797, the number of images of digits"),
        ([runs[0].folder, "--n", 19], "--n 19: expected 20 to"),
        ([runs[0].folder, "--n", -1], "--n -1: expected"),
        ([runs[0].folder, "--device", "tpu"], "'tpu' is not known"),
    ):
        code, output, errors = command("fid", *arguments, "--inception-weights", "x")
        assert (code, output) == (2, ""), arguments
        assert message in errors
    assert command("fid", runs[0].folder, other.folder, "--n", 40, "--inception-weights", "x")[0] == 0


@pytest.mark.slow
def test_the_whole_way_with_torch_fidelitys_network(
    sngan: Callable, command: Callable, runs: list[Record], monkeypatch: pytest.MonkeyPatch, standin: Path
) -> None:
    """The file is a stand-in, drawn at random."""
    given = ("fid", runs[0].folder, "--n", 20, "--inception-weights", standin, "--device", "cpu")
    done = sngan(*given)
    assert done.returncode == 2
    assert "is not the file that FID needs" in done.stderr
    monkeypatch.setattr("sngan.inception.SHA256", hashlib.sha256(standin.read_bytes()).hexdigest())
    code, output, errors = command(*given, "--json")
    assert code == 0, errors
    assert "warning: 20 samples have covariances of incomplete rank in 2,048 features" in errors
    found = json.loads(output)
    assert found["runs"][0]["fid"] > 0
    assert found["inception_n_features"] == 2048
    assert found["inception_sha256"] == hashlib.sha256(standin.read_bytes()).hexdigest()


def test_own_images_are_found_where_the_run_had_them_and_have_no_fd_if_pixels_judge(
    judged: Callable, command: Callable, tmp_path: Path
) -> None:
    np.savez(tmp_path / "own.npz", images=load("digits").images[:200, 0].numpy())
    record = trained(tmp_path / "runs", dataset=f"npz:{tmp_path / 'own.npz'}", steps=4, n_fake=60)
    found = judged(record.folder)
    (row,) = found["runs"]
    assert row["fd_pixels"] == pytest.approx(record.rows()[-1]["eval/fd_pixels"], rel=1e-5)
    assert (row["fd"], row["kd"], found["feature_net_sha256"]) == (None, None, None)
    assert row["fid"] > 0
    code, output, _ = command("fid", record.folder, "--inception-weights", "x", "--device", "cpu")
    assert code == 0
    assert "fd_pixels" in output
    assert " kd " not in output
    (tmp_path / "own.npz").rename(tmp_path / "elsewhere.npz")
    load.cache_clear()
    code, _, errors = command("fid", record.folder, "--inception-weights", "x", "--device", "cpu")
    assert code == 2
    assert "there is no file" in errors
    assert judged(record.folder, "--data-path", tmp_path / "elsewhere.npz") == found


def test_runs_of_several_judges_or_sizes_are_refused(stand_in: None, command: Callable, tmp_path: Path) -> None:
    run = trained(tmp_path, steps=4)

    def stranger(**changes: object) -> Record:
        config = small(**changes)
        record = Record(tmp_path / "single" / config.run_id)
        record.folder.mkdir(exist_ok=True)
        record.write_status(run.status())
        record.config_path.write_text(json.dumps(config.identity()))
        return record

    own = {"dataset": "folder", "data_sha256": "0" * 64, "judge": "pixels"}
    for one, other, message in (
        (run, stranger(judge="mnist"), "judged by digits and mnist: their distances cannot be compared"),
        (stranger(**own, channels=1), stranger(**own, channels=3), "of several sizes, or of grey"),
        (stranger(**own, architecture="dcgan28"), stranger(**own, architecture="sndcgan32"), "several sizes"),
        (stranger(**own), stranger(**own | {"data_sha256": "1" * 64}), "of folder 00000000 and folder 11111111"),
    ):
        code, _, errors = command("fid", one.folder, other.folder, "--inception-weights", "x")
        assert code == 2
        assert message in errors


def test_runs_that_pixels_judge_are_ranked_without_fd(stand_in: None, command: Callable, tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", images=load("digits").images[:200, 0].numpy())
    runs = [trained(tmp_path, dataset=f"npz:{tmp_path / 'own.npz'}", seed=seed, steps=4) for seed in range(3)]
    code, output, errors = command("fid", *(run.folder for run in runs), "--inception-weights", "x")
    assert code == 0, errors
    assert output.splitlines()[0].split() == ["run", "n", "fd_pixels", "FID", "KID"]
    assert "Spearman's rank correlation over 3 runs: fd_pixels and FID" in output
