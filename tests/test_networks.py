"""A caller's own networks: trained and measured as the built-in ones, and refused in words if they cannot be."""

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import small
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from sngan import state
from sngan.arms import ARMS
from sngan.config import InputError, RunConfig
from sngan.constraints import ConvolutionNorm
from sngan.data import ImageData, load
from sngan.models import initialize
from sngan.networks import check_networks
from sngan.sigma import log_sigmas
from sngan.spectral import raw_weight, remove_spectral_norm
from sngan.state import Run, unconstrained
from sngan.train import Here, Outcome, train

Z = 8


class Residual(nn.Module):
    """28 x 28, with a skip connection, batch norm, and layers registered in another order than they run in."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 1)
        self.first = nn.Conv2d(1, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, 1, 1)
        self.first.weight.data.mul_(3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm(self.first(x)), 0.2)
        x = x + self.second(x)
        return self.out(x.relu().mean((2, 3)))


def generator(channels: int = 1, side: int = 28) -> nn.Sequential:
    shape = (channels, side, side)
    layers = (nn.Linear(Z, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, math.prod(shape)), nn.Tanh())
    return nn.Sequential(*layers, nn.Unflatten(1, shape))


def discriminator(channels: int = 1, side: int = 28) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * side**2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))


def own(**changes: Any) -> RunConfig:
    return small(**{"z_dim": Z, "steps": 8, "log_every": 2, "instrument_every": 4, "n_evaluations": 1, **changes})


def images(channels: int, side: int, n: int = 64) -> ImageData:
    shape = (n, channels, side, side)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    return ImageData("digits", pixels, torch.zeros(n, dtype=torch.int64), "")


class Trained:
    """Everything that a training gives."""

    def __init__(
        self, config: RunConfig, networks: Any = None, resume: Any = None, data: ImageData | None = None,
        due: Callable[[int], bool] | None = None,
    ) -> None:  # fmt: skip
        self.rows: dict[int, dict[str, Any]] = {}
        self.samples: dict[int, Tensor] = {}
        self.states: list[dict[str, Any]] = []
        data = data or load("digits")
        self.outcome = train(config, data, self._log, self._save, resume, due, networks=networks)

    def _log(self, row: dict[str, Any], samples: Tensor | None) -> None:
        self.rows[row["step"]] = {key: value for key, value in row.items() if not key.startswith("time/")}
        if samples is not None:
            self.samples[row["step"]] = samples

    def _save(self, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        self.states.append(torch.load(buffer, weights_only=True))

    def assert_ends_as(self, other: "Trained", since: int = -1) -> None:
        assert self.rows == {step: row for step, row in other.rows.items() if step > since}
        assert self.samples.keys() == {step for step in other.samples if step > since}
        assert all(torch.equal(self.samples[step], other.samples[step]) for step in self.samples)
        for network in "GD":
            (mine, theirs) = (of.states[-1][network] for of in (self, other))
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)

    @property
    def last(self) -> dict[str, Any]:
        return self.rows[max(self.rows)]


# --- trained and measured as the built-in ones ---


def arms(*fast: str) -> list[Any]:
    """These, and the others among the slow tests."""
    others = [arm for arm in ARMS if arm not in (*fast, "sn_conv")]
    return [*fast, *(pytest.param(arm, marks=pytest.mark.slow) for arm in others)]


@pytest.mark.parametrize("arm", arms(*list(ARMS)[:6], "gp", "wn", "ortho"))
def test_the_built_in_pair_has_the_same_bits_if_it_is_given(arm: str) -> None:
    config = small(arm=arm, seed=3, steps=6, log_every=2, instrument_every=4, n_evaluations=1)
    G, D = unconstrained(config)
    initialize(G, config.seed, "G", config.init)
    initialize(D, config.seed, "D", config.init)
    given = Trained(config, (G, D))
    given.assert_ends_as(Trained(config))
    assert all(torch.equal(tensor, given.states[-1]["D"][name]) for name, tensor in D.state_dict().items())


@pytest.mark.parametrize("arm", ["sn", "penalty", "plain"])
def test_a_residual_discriminator_is_trained_and_measured(arm: str) -> None:
    config, G, D = own(arm=arm, precision="float64"), generator(), Residual()
    trained = Trained(config, (G, D))
    assert trained.outcome == Outcome("finished", config.steps)
    row = trained.last
    assert not [key for key in row if key.startswith("sigma_bn/")]
    assert "lipschitz/product" not in row
    assert row["lipschitz/empirical"] > 0
    assert row["eval/fd"] > 0
    for name, size in {"out": None, "first": (1, 28, 28), "second": (8, 14, 14)}.items():
        layer: Any = D.eval().get_submodule(name)
        with torch.no_grad():
            weight = layer.weight
            assert row[f"sigma/{name}"] == pytest.approx(np.linalg.norm(weight.flatten(1).numpy(), 2))
            operator = weight
            if size:
                basis = torch.eye(math.prod(size), dtype=torch.float64).unflatten(1, size)
                operator = F.conv2d(basis, weight, stride=layer.stride, padding=layer.padding).flatten(1)
        norm = torch.linalg.matrix_norm(operator, 2).item()
        assert row[f"sigma_conv/{name}"] == pytest.approx(norm, rel=1e-3)
    assert (row["sigma/first"] == pytest.approx(1, abs=0.2)) == (arm == "sn")
    x = load("digits").images[:3].double() / 127.5 - 1
    with torch.no_grad():
        logits = D(x)
    if arm == "sn":
        assert torch.allclose(remove_spectral_norm(D)(x), logits)


@pytest.mark.parametrize("arm", ["sn", "penalty", "gp"])
def test_a_resumed_run_of_own_networks_has_the_same_bits(arm: str) -> None:
    def fresh() -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(1)
        return generator(), Residual() if arm != "gp" else discriminator()

    config = own(arm=arm)
    whole = Trained(config, fresh(), due=lambda step: step in (3, 6))
    assert [of["step"] for of in whole.states] == [3, 6, 8]
    for stop in whole.states[:-1]:
        Trained(config, fresh(), stop).assert_ends_as(whole, stop["step"])
    with pytest.raises(InputError, match=r"of other networks, or of another arm"):
        Trained(config, (generator(), nn.Sequential(nn.Flatten(), nn.Linear(784, 1))), whole.states[0])


@pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 20)])
def test_images_of_any_size_are_trained_on(channels: int, side: int) -> None:
    trained = Trained(own(arm="sn"), (generator(channels, side), discriminator(channels, side)),
                      data=images(channels, side))  # fmt: skip
    assert trained.samples[8].shape == (64, channels, side, side)
    assert trained.last["lipschitz/product"] >= trained.last["lipschitz/empirical"] > 0
    assert [key for key in trained.last if key.startswith("eval/")] == ["eval/fd_pixels"]  # no yardstick knows them
    assert len(trained.last["spectrum/1"]) == 8


def test_nothing_needs_to_be_logged() -> None:
    G, D = generator(), discriminator()
    before = copy.deepcopy([G.state_dict(), D.state_dict()])
    assert train(own(arm="plain"), load("digits"), networks=(G, D)).state == "finished"
    for network, of in zip((G, D), before, strict=True):
        assert all(not torch.equal(parameter, of[name]) for name, parameter in network.named_parameters())


def test_it_is_said_which_network_is_not_finite() -> None:
    """Both are of one class, with parameters of the same names."""
    run = Run(own(), load("digits"), networks=(generator(), discriminator()))
    for network, name in ((run.G, "Generator"), (run.D, "Discriminator")):
        bias = network.get_parameter("3.bias")
        bias.data[0] = torch.nan
        run.look()
        bad = [of for of, magnitude in run.magnitudes().items() if math.isnan(magnitude)]
        assert bad == [f"{name} 3.bias"]
        bias.data[0] = 0


def test_a_diverged_run_of_own_networks_ends_as_such() -> None:
    class Exploding(nn.Module):
        """From the fourth step on its logits are infinite: it runs three times in each."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = discriminator(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += self.training
            return self.inner(x) * (torch.inf if self.calls > 9 else 1)

    outcome = Trained(own(arm="plain"), (generator(), Exploding())).outcome
    assert outcome.state == "diverged"
    assert outcome.step == 4


def test_what_is_frozen_stays_as_it_is() -> None:
    G, D = generator(), discriminator()
    for layer in (G[0], D[1]):
        layer.requires_grad_(False)
    before = [copy.deepcopy(layer.state_dict()) for layer in (G[0], D[1], D[3])]
    Trained(own(arm="plain"), (G, D))
    after = [layer.state_dict() for layer in (G[0], D[1], D[3])]
    same = [all(torch.equal(a[name], b[name]) for name in a) for a, b in zip(before, after, strict=True)]
    assert same == [True, True, False]
    assert not D[1].weight.requires_grad
    assert D[3].weight.requires_grad


def test_a_spectral_norm_of_the_callers_own_is_measured() -> None:
    D: Any = discriminator()
    parametrizations.spectral_norm(D[1])
    row = Trained(own(arm="plain"), (generator(), D)).last
    weight = D[1].parametrizations.weight.original.detach().double()
    assert row["sigma_raw/1"] == pytest.approx(torch.linalg.matrix_norm(weight, 2).item())
    assert row["sigma/1"] == pytest.approx(row["sigma_raw/1"] / row["sigma_estimate/1"], rel=1e-5)
    assert row["sigma/1"] == pytest.approx(1, abs=0.2)
    assert row["sigma_estimate/3"] == pytest.approx(row["sigma_raw/3"], rel=0.1)


class Odd(nn.Module):
    """Layers of all sorts, used twice, never, in lists and dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(1, 1, 3, 1, 1)
        self.two_sizes = nn.Conv2d(1, 1, 2, 2)
        self.listed = nn.ModuleList([nn.Conv1d(28, 4, 3), nn.Conv3d(1, 2, 3), nn.ConvTranspose2d(1, 2, 2)])
        self.named = nn.ModuleDict({"tokens": nn.Linear(28, 2), "again": self.twice, "grown": self.listed[2]})
        self.never = nn.Conv2d(3, 5, 7)
        self.to_size = nn.ConvTranspose2d(1, 1, 3, stride=2)
        self.scale = nn.Embedding(3, 4)
        self.attention = nn.MultiheadAttention(28, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.named["again"](self.twice(input=x))
        rows = self.attention(x[:, 0], x[:, 0], x[:, 0])[0] + x[:, 0]
        parts = [
            *(self.two_sizes(x), self.two_sizes(self.two_sizes(x)), self.listed[0](rows)),
            *(self.listed[1](x[:, None].expand(-1, -1, 3, -1, -1)), self.listed[2](x), self.named["tokens"](rows)),
            self.to_size(x, output_size=(58, 58)),
        ]
        return torch.stack([part.flatten(1).mean(1) for part in parts]).sum(0) * self.scale.weight.sum()


@pytest.mark.parametrize("arm", arms("plain", "sn", "wn", "ortho", "sn_svd"))
@pytest.mark.filterwarnings("ignore:apply_spectral_norm divides")
def test_odd_layers_are_measured_rightly_or_not_at_all(arm: str) -> None:
    D = Odd()
    row = Trained(own(arm=arm, steps=2), (generator(), D)).last
    names = {key.removeprefix("sigma/") for key in row if key.startswith("sigma/")}
    assert names == {
        *("twice", "two_sizes", "listed.0", "listed.1", "listed.2", "named.tokens", "never", "to_size"),
        "attention.out_proj",
    }  # fmt: skip
    known = {key.removeprefix("sigma_conv/") for key in row if key.startswith("sigma_conv/")}
    assert known == {"twice", "listed.0", "listed.2", "named.tokens", "attention.out_proj"}
    assert row["sigma_conv/named.tokens"] == row["sigma/named.tokens"] == log_sigmas(D)["named.tokens"]
    assert not [key for key in row if key.startswith(("sigma_bn/", "lipschitz/product"))]
    grown: Any = D.eval().get_submodule("listed.2")
    used = grown.weight.detach().double()  # (in, out, 2, 2), on 28 x 28
    basis = torch.eye(28 * 28, dtype=torch.float64).view(-1, 1, 28, 28)
    operator = F.conv_transpose2d(basis, used).flatten(1)
    norm = torch.linalg.eigvalsh(operator @ operator.T)[-1].sqrt().item()
    assert row["sigma_conv/listed.2"] == pytest.approx(norm, rel=1e-3)
    assert row["sigma/listed.2"] == pytest.approx(torch.linalg.matrix_norm(used.movedim(1, 0).flatten(1), 2).item())
    if arm in ("sn_svd", "ortho"):  # of the matrix that is measured, of transposed convolutions, too
        assert row["sigma/listed.2"] == pytest.approx(1, abs=0.01)
    if arm == "wn":
        assert torch.allclose(used.movedim(1, 0).flatten(1).norm(dim=1), torch.ones(2).double())


def test_a_discriminator_of_no_layers_is_measured_by_its_gradients() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pixels = nn.Parameter(torch.randn(28, 28))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.pixels).sum((1, 2, 3))

    D = Weighted()
    row = Trained(own(arm="gp"), (generator(), D)).last
    assert row["lipschitz/empirical"] == pytest.approx(D.pixels.norm().item(), rel=1e-5)
    assert not [key for key in row if key.startswith(("sigma", "lipschitz/product"))]


# --- what cannot be trained ---


def swapped(index: int, layer: nn.Module, of: Callable[[], nn.Sequential] = discriminator) -> nn.Sequential:
    network = of()
    network[index] = layer
    return network


def filled(network: nn.Sequential, value: float) -> nn.Sequential:
    """With a last layer whose weight has this value everywhere."""
    nn.init.constant_(network[3].weight, value)  # type: ignore[arg-type]
    return network


def faint() -> nn.Module:
    """Without tanh, whose images have not left [-1, 1] yet."""
    layer = nn.Linear(Z, 784)
    layer.weight.data.mul_(0.01)
    return nn.Sequential(layer, nn.Unflatten(1, (1, 28, 28)))


def tied() -> tuple[nn.Module, nn.Module]:
    G, D = generator(), discriminator()
    D.register_parameter("shift", G[1].bias)  # type: ignore[arg-type]
    return G, D


class Reshaped(nn.Module):
    """What the layers make, as a function sees it."""

    def __init__(self, layers: nn.Module, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layers, self.function = layers, function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layers(x))


def tutorial(latents: int) -> nn.Module:
    """torch's own DCGAN example begins so: with latents as images of one pixel."""
    return nn.Sequential(nn.ConvTranspose2d(latents, 1, 28), nn.Tanh())


WRONG: dict[str, tuple[Callable[[], Any], str, dict[str, Any]]] = {
    "no pair": (generator, r"expected a tuple of two modules, \(G, D\), got Sequential", {}),
    "one": (lambda: (generator(),), r"expected a tuple of two modules", {}),
    "no module": (lambda: (generator(), torch.relu), r"got Sequential, builtin_fun", {}),
    "shape": (
        lambda: (generator(1, 32), discriminator()),
        r"G makes \(16, 1, 32, 32\) of latents \(16, 8\), and must make images as the data's, \(16, 1, 28, 28\)",
        {},
    ),
    "range": (lambda: (swapped(4, nn.Identity(), generator), discriminator()), r"reach from .*end in nn.Tanh", {}),
    "range later": (lambda: (faint(), discriminator()), r"latents 10,000 times as large reach .*end in nn.Tanh", {}),
    "range at once": (
        lambda: (Reshaped(generator(), lambda x: 3 * x + 2), discriminator()), r"of standard normal latents reach", {},
    ),
    "two logits": (
        lambda: (generator(), swapped(3, nn.Linear(8, 2))),
        r"D makes \(16, 2\) of images \(16, 1, 28, 28\), and must make one logit for each, \(16,\) or \(16, 1\)",
        {},
    ),
    "mean": (lambda: (generator(), Reshaped(discriminator(), Tensor.mean)), r"D makes \(\) of images", {}),
    "several": (lambda: (generator(), Reshaped(discriminator(), lambda x: (x, x))), r"D must .* and makes tuple", {}),
    "classes": (lambda: (generator(), Reshaped(discriminator(), lambda x: x > 0)), r"makes torch.bool", {}),
    "z_dim": (lambda: (generator(), discriminator()), r"takes 8 and z_dim is 9: z_dim=8 in RunConfig", {"z_dim": 9}),
    "pixels": (lambda: (tutorial(Z), discriminator()), r"takes 8 and z_dim is 8: nn.Unflatten\(1, \(8, 1, 1\)\)", {}),
    "order": (lambda: (discriminator(), generator()), r"G fails in train mode on latents \(16, 8\): RuntimeError", {}),
    "no parameter": (lambda: (generator(), nn.Flatten()), r"D has no parameter .*: it has none", {}),
    "frozen": (lambda: (generator().requires_grad_(False), discriminator()), r"G has no .*requires_grad False", {}),
    "nothing to constrain": (
        lambda: (generator(), nn.Sequential(nn.Flatten(), nn.LayerNorm(784), nn.AdaptiveAvgPool1d(1))),
        r"D has no Conv\*, ConvTranspose\* or Linear layer, and arm sn is about their weights", {},
    ),
    "shared": (tied, r"G and D share parameters, D's shift", {}),
    "same": (lambda: (generator(),) * 2, r"G and D share parameters", {}),
    "lazy": (lambda: (generator(), swapped(1, nn.LazyLinear(8))), r"layer '1' of D \(LazyLinear\) is lazy", {}),
    "compiled": (lambda: (generator(), torch.jit.script(discriminator())), r"D cannot be trained: .*TorchScript", {}),
    "meta": (lambda: (generator(), discriminator().to("meta")), r"'1.weight' of D has no values", {}),
    "complex": (lambda: (generator(), discriminator().to(torch.complex64)), r"of D is of type torch.complex64", {}),
    "nan": (lambda: (generator(), filled(discriminator(), torch.nan)), r"'3.weight' of D is not finite", {}),
    "zero": (lambda: (generator(), filled(discriminator(), 0)), r"layer '3' of D .* has a weight of zero", {}),
    "normalized": (
        lambda: (generator(), swapped(3, parametrizations.spectral_norm(nn.Linear(8, 1)))),
        r"layer '3' of D .* something else computes already.*remove_spectral_norm\(D\)", {},
    ),
    "old hook": (
        lambda: (generator(), swapped(3, nn.utils.spectral_norm(nn.Linear(8, 1)))), r"a hook computes it",
        {"arm": "plain"},
    ),
    "detached": (lambda: (generator(), Reshaped(discriminator(), Tensor.detach)), r"have no gradient for both", {}),
    "cut off": (lambda: (Reshaped(generator(), Tensor.detach), discriminator()), r"no parameter of G gets", {}),
    "batch norm": (
        lambda: (generator(), swapped(2, nn.BatchNorm1d(8))), r"arm gp means nothing with the batch norm in D \(2\)",
        {"arm": "gp"},
    ),
    "input sizes": (lambda: (generator(), discriminator()), r"arm sn_conv is for the networks of an architecture",
                    {"arm": "sn_conv"}),
    "view": (
        lambda: (generator(), Reshaped(nn.Conv2d(1, 2, 28, padding=1), lambda x: x.view(-1, 18).sum(1))),
        r"view size .* view\(\) works with memory_format", {"memory_format": "channels_last"},
    ),
    "fixed batch": (
        lambda: (generator(), Reshaped(discriminator(), lambda x: x.reshape(16))), r"D fails in eval mode", {},
    ),
    "batch": (lambda: (generator(), discriminator()), r"batch_size 2000 is larger", {"batch_size": 2000}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Complex modules")
@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_trained_is_refused_and_left_alone(what: str) -> None:
    made, message, changes = WRONG[what]
    networks = made()
    modules = [n for n in networks if isinstance(n, nn.Module)] if isinstance(networks, tuple) else []
    before = [copy.deepcopy(n.state_dict()) for n in modules] if what not in ("lazy", "meta") else []
    with pytest.raises(InputError, match=message):
        train(own(**{"arm": "sn", **changes}), load("digits"), networks=networks)
    for network, of in zip(modules, before, strict=False):
        assert network.state_dict().keys() == of.keys()
        assert all(torch.allclose(t, of[name], 0, 0, equal_nan=True) for name, t in network.state_dict().items())


def test_who_makes_the_steps_has_networks_already() -> None:
    config, data = own(), load("digits")
    with pytest.raises(InputError, match="networks go with steps that are made here"):
        train(config, data, steps=Here(config, data), networks=(generator(), discriminator()))


def test_a_trained_discriminator_is_refused_until_its_norm_is_removed() -> None:
    G, D = generator(), discriminator()
    train(own(arm="sn"), load("digits"), networks=(G, D))
    with pytest.raises(InputError, match=r"remove_spectral_norm\(D\)"):
        train(own(arm="sn"), load("digits"), networks=(G, D))
    assert train(own(arm="sn"), load("digits"), networks=(G, remove_spectral_norm(D))).state == "finished"


def test_convolution_norm_alone_is_for_the_built_in_networks() -> None:
    """A new constraint that asks the architecture's rows has to say so."""
    assert not ConvolutionNorm.of_any_network


class Counting(nn.Module):
    """Everything that a forward pass may change: buffers, the global generator, what it remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = swapped(2, nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5)))
        parametrizations.spectral_norm(self.layers[1])
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layers(x)


def test_the_check_changes_nothing() -> None:
    G, D = generator(), Counting()
    G.eval()
    D.layers[2].eval()
    modes = [part.training for network in (G, D) for part in network.modules()]
    before, random = copy.deepcopy([G.state_dict(), D.state_dict()]), torch.get_rng_state()
    check_networks(own(arm="plain"), load("digits"), (G, D))
    assert torch.equal(torch.get_rng_state(), random)
    assert modes == [part.training for network in (G, D) for part in network.modules()]
    assert D.calls == 0
    assert all(p.grad is None for network in (G, D) for p in network.parameters())
    for network, of in zip((G, D), before, strict=True):
        assert all(torch.equal(tensor, of[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("arm", ["sn", "plain"])
def test_a_run_has_the_same_bits_unchecked(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> Trained:
        torch.manual_seed(5)
        return Trained(own(arm=arm), (generator(), swapped(2, nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5)))))

    checked = trained()
    monkeypatch.setattr(state, "check_networks", lambda *of: None)
    checked.assert_ends_as(trained())


@pytest.mark.parametrize("measured", [True, False])
def test_modes_and_types_are_those_of_training(measured: bool) -> None:
    G, D, rows = generator().eval().double(), Residual().eval(), []
    train(own(arm="sn"), load("digits"), (lambda row, samples: rows.append(row)) if measured else None, networks=(G, D))
    assert all(part.training for network in (G, D) for part in network.modules())
    assert {p.dtype for network in (G, D) for p in network.parameters()} == {torch.float32}
    assert raw_weight(D.second).is_contiguous(memory_format=torch.channels_last)
    assert bool(rows) == measured


def test_bfloat16_trains_own_networks() -> None:
    row = Trained(own(arm="sn", precision="bfloat16"), (generator(), Residual())).last
    assert math.isfinite(row["loss/d"])


class Evaluated(nn.Module):
    """Not finite in eval mode."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) / (1 if self.training else 0)


class Detached(nn.Module):
    """Without a gradient in eval mode."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x if self.training else x.detach())


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Evaluated, "D's logits are not finite under arm sn"), (Detached, "D's logits have no gradient with respect to")],
)
def test_what_fails_only_where_it_is_measured_is_refused(kind: Callable[[nn.Module], nn.Module], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(own(arm="sn"), load("digits"), networks=(generator(), kind(discriminator())))


def test_images_of_another_kind_than_the_architectures_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"have the shape \(3, 32, 32\), and the networks of dcgan28 make \(1, 28, 28\)"
    ):
        train(own(arm="sn"), images(3, 32))
