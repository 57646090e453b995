"""FID beside this project's own distances, of the same samples: for whoever has Inception's weights."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from experiments.account import fitted, runs_table, to_stdout
from experiments.display import counting
from experiments.export import networks
from experiments.machine import prepare_cuda, resolve_device
from experiments.record import Record, to_json
from sngan.config import RunConfig
from sngan.data import ImageData, load_images
from sngan.errors import InputError
from sngan.evaluate import judge, reference_sets
from sngan.inception import Inception
from sngan.judges import Judge, load_judge
from sngan.metrics import frechet_distance, kernel_distance
from sngan.streams import normal, torch_generator

SCORES = {"fd": "fd", "kd": "kd", "fd_pixels": "fd_pixels", "fid": "FID", "kid": "KID"}  # key -> heading
RANKED = ("fd", "fd_pixels", "fid")
_FEWEST = 20  # samples of each, as for evaluations
_BATCH = 50  # samples that are generated and judged at once
_FEWEST_RANKED = 3  # runs: two are always in the same order or in the opposite one


class Views(NamedTuple):
    """What one set of n images is judged by."""

    features: Tensor  # (n, n_features), of what judges the runs; none if pixels alone do
    pixels: Tensor  # (n, C * (side / 2)^2): the means of 2x2 pixels
    inception: Tensor  # (n, 2048), of the images rounded to 8 bits

    def first(self, n: int) -> Views:
        return Views(*(of_all[:n] for of_all in self))


def fid(
    records: Sequence[Record], weights: str, n: int = 0, device: str = "auto", data_dir: str = "",
    as_json: bool = False, data_path: str = "",
) -> int:  # fmt: skip
    """Print the scores of the runs' final generators, of reals and of the trivial sampler, by n samples. Returns 0.

    `n`: 0 for as many as the runs' evaluations compare. Samples, real images and the trivial sampler are those of an
    evaluation (`sngan.evaluate`), so that fd, kd and fd_pixels are its numbers; FID and KID are of the same images.

    Raises InputError for runs that have not ended, are named twice, or cannot be compared with each other or by this
    program's yardstick, for an n that cannot be, and what `Inception`, `networks` and `load` raise.
    """
    configs = [_ended(record) for record in records]
    n = _checked_number(configs, n)
    where = resolve_device(device)
    if where.type == "cuda":
        prepare_cuda()
    inception = Inception(weights, where)
    config = _placed(configs[0], records, data_dir, weights, data_path)
    data = load_images(config, _to_stderr).to(where)
    by = load_judge(config, data, where, say=_to_stderr)
    n, most = n or min(configs[0].n_compared, len(data.images)), len(data.images)
    if not _FEWEST <= n <= most:
        raise InputError(f"--n {n}: expected {_FEWEST} to {most:,}, the number of images of {data.name}")
    generators = {}
    for record, config in zip(records, configs, strict=True):
        _check_protocol(record, by, data)
        generators[config.run_id] = config, networks(record)[0]  # a wrong one is found before anything is judged
    if n <= inception.n_features:
        _to_stderr(f"warning: {n:,} samples have covariances of incomplete rank in {inception.n_features:,} features, "
                   "so that FID is far too high: compare it only with FID by as many samples")  # fmt: skip
    found = compare(generators, n, data, by, inception)
    print(to_json(found, indent=2)) if as_json else _print(found)
    return 0


def _ended(record: Record) -> RunConfig:
    """The run's configuration. Raises InputError if that is unreadable, or the run has not ended."""
    config, status = record.config(), record.status()
    if not status["state"].is_result:
        why = f" ({status['error']})" if status.get("error") else ""
        raise InputError(f"{record.run_id} has no final weights: it is {status['state']}{why}")
    return config


def _checked_number(configs: Sequence[RunConfig], n: int) -> int:
    """`n`. Raises InputError for runs that cannot be compared by it."""
    ids = [config.run_id for config in configs]
    if twice := next((run_id for run_id in ids if ids.count(run_id) > 1), None):
        raise InputError(f"{twice} is named twice")
    if len(datasets := sorted({config.data_name for config in configs})) > 1:
        raise InputError(f"these runs are of {' and '.join(datasets)}: distances are compared within one data set")
    if len(judges := sorted({config.judge for config in configs})) > 1:
        raise InputError(f"these runs are judged by {' and '.join(judges)}: their distances cannot be compared")
    if len({(config.side, config.channels) for config in configs}) > 1:
        raise InputError("these runs make images of several sizes, or of grey and of colour: give those of one kind")
    counts = sorted({config.n_compared for config in configs})
    if len(counts) > 1 and not n:
        raise InputError(
            f"these runs were judged by {' and '.join(map(str, counts))} samples, on which distances depend: give --n"
        )
    if n < 0:
        raise InputError(f"--n {n}: expected at least {_FEWEST}")
    return n


def _placed(config: RunConfig, records: Sequence[Record], data_dir: str, weights: str, data_path: str) -> RunConfig:
    """With places of images and weights; a user's own images are where one of the runs had them if none is named."""
    attempts = [attempt for record in records for attempt in record.status()["attempts"]]
    paths = [path for attempt in attempts if isinstance(path := attempt.get("data_path"), str) and path]
    path = data_path or (paths[-1] if config.data_sha256 and paths else "")
    return dataclasses.replace(config, data_dir=data_dir, inception_weights=weights, data_path=path)


def _check_protocol(record: Record, by: Judge, data: ImageData) -> None:
    """Raises InputError if the run was judged by another network or other images than those that are here."""
    protocol = record.protocol()
    for name, here in {"feature_net_sha256": by.sha256, "reference_sha256": data.digest}.items():
        if protocol.get(name, here) != here:
            raise InputError(
                f"{record.run_id} was judged otherwise: {name} is {protocol[name]} in its {record.protocol_path.name}, "
                f"and {here} here"
            )


def compare(
    generators: Mapping[str, tuple[RunConfig, nn.Module]], n: int, data: ImageData, by: Judge, inception: Inception
) -> dict[str, Any]:
    """All scores by run id, those of reals and of the trivial sampler, and what they are scores by."""
    m = min(n, len(data.images) // 2)
    names = ("real images", "other real images", "trivial sampler")
    sets = dict(zip(names, reference_sets(data, n, m, m), strict=True))
    phases = itertools.count(1)

    def seen(name: str, batches: Iterable[Tensor], total: int) -> Views | None:
        what = f"{next(phases)} of {len(sets) + len(generators)}, {name}: images judged"
        return _views(batches, total, by, inception, what)

    reals, others, trivial = (seen(name, images.split(_BATCH), len(images)) for name, images in sets.items())
    assert reals is not None
    assert others is not None
    m = len(others.features)
    rows = []
    for run_id, (config, G) in generators.items():
        fakes = seen(run_id, samples(config, G.to(data.images.device), n), n)
        rows.append({"run_id": run_id, "n": n, **scores(reals, fakes)})
    return {
        "dataset": data.name,
        "feature_net": by.feature_net,
        "feature_net_sha256": by.sha256,
        "inception": inception.name,
        "inception_sha256": inception.sha256,
        "inception_n_features": inception.n_features,
        "runs": rows,
        "real_against_real": {"n": m, **scores(reals.first(m), others)},
        "trivial_sampler": {"n": n, **scores(reals, trivial)},
        "spearman": rank_correlations(rows),
    }


@torch.no_grad()
def samples(config: RunConfig, G: nn.Module, n: int) -> Iterator[Tensor]:
    """Batches of n images (.., C, side, side) in [-1, 1], of the latents by which the run's evaluations judge G."""
    device = next(G.parameters()).device
    shape = max(n, config.n_fake), config.z_dim
    latents = normal(shape, torch_generator(config.seed, "evaluation"), getattr(torch, config.dtype), device)
    for z in latents[:n].split(_BATCH):
        yield G(z)


@torch.no_grad()
def _views(batches: Iterable[Tensor], total: int, by: Judge, inception: Inception, what: str) -> Views | None:
    """What the images are judged by; None if they are not finite. `what` names the phase in the progress."""
    parts: list[Views] = []
    with counting(what) as tell:
        for images in batches:
            if not images.isfinite().all():
                return None
            judged = judge(by, images)
            parts.append(Views(judged.features, judged.pixels, inception.embed(images)))
            tell(min(len(parts) * _BATCH, total), total)
    return Views(*map(torch.cat, zip(*parts, strict=True)))


def scores(real: Views, fake: Views | None) -> dict[str, float]:
    """Those of SCORES, of fakes against as many reals; NaN for fakes that are not finite.

    Deviation: KID takes all pairs of samples; Binkowski et al. 2018 average random subsets.
    """
    if fake is None:
        return dict.fromkeys(SCORES, math.nan)
    features = real.features, fake.features
    has_features = features[0].shape[1] > 0
    return {
        "fd": frechet_distance(*features) if has_features else math.nan,
        "kd": kernel_distance(*features) if has_features else math.nan,
        "fd_pixels": frechet_distance(real.pixels, fake.pixels),
        "fid": frechet_distance(real.inception, fake.inception),
        "kid": kernel_distance(real.inception, fake.inception),
    }


def rank_correlations(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Spearman's of each two of RANKED, over the runs whose scores are finite; NaN if one of them never changes.

    Empty for fewer than three such runs. A score that no run has is left out.
    """
    ranked = [key for key in RANKED if any(math.isfinite(row[key]) for row in rows)]
    finite = [row for row in rows if all(math.isfinite(row[key]) for key in ranked)]
    if len(finite) < _FEWEST_RANKED:
        return {}
    columns = {key: [row[key] for row in finite] for key in ranked}
    found: dict[str, Any] = {"n": len(finite)}
    for one, other in itertools.combinations(ranked, 2):
        varies = all(len(set(columns[key])) > 1 for key in (one, other))
        rank = spearmanr(columns[one], columns[other]).statistic if varies else math.nan  # type: ignore[attr-defined]
        found[f"{one}, {other}"] = float(rank)
    return found


def _print(found: dict[str, Any]) -> None:
    rows = {row["run_id"]: row for row in found["runs"]}
    rows |= {"real against real": found["real_against_real"], "trivial sampler": found["trivial_sampler"]}
    has_features = found["feature_net_sha256"] is not None
    keys = [key for key in SCORES if has_features or key not in ("fd", "kd")]
    table = runs_table(rows, "n", *(SCORES[key] for key in keys))
    for name, row in rows.items():
        cells = [f"{row[key]:.4g}" if math.isfinite(row[key]) else "not finite" for key in keys]
        table.add_row(name, f"{row['n']:,}", *cells)
    console = to_stdout()
    console.print(fitted(table))
    if has_features:
        console.print(f"fd, kd: {found['feature_net']}, SHA-256 {found['feature_net_sha256']}")
    console.print(f"FID, KID: {found['inception']}, {found['inception_n_features']} features of 8-bit images, SHA-256 "
                  f"{found['inception_sha256']}")  # fmt: skip
    ranks = dict(found["spearman"])
    if number := ranks.pop("n", 0):
        said = ", ".join(f"{' and '.join(SCORES[key] for key in pair.split(', '))} {rank:.2f}"
                         for pair, rank in ranks.items())  # fmt: skip
        console.print(f"Spearman's rank correlation over {number} runs: {said}")


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
