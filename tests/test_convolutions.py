"""The written-out convolutions against torch's own and, through training, float32 and bfloat16 against float64."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import FURTHER, ONE_EACH, small
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sngan import convolutions, models
from sngan.arms import ARMS
from sngan.config import RunConfig
from sngan.convolutions import Conv2d, ConvTranspose2d, toom_cook
from sngan.data import load
from sngan.state import build
from sngan.train import train

LAYERS = [  # class, torch's, input, arguments: the networks' own, three channels, odd sizes, and what torch computes
    (ConvTranspose2d, nn.ConvTranspose2d, (4, 64, 1, 1), (64, 256, 3, 2)),
    (ConvTranspose2d, nn.ConvTranspose2d, (4, 32, 3, 3), (32, 16, 4, 1)),
    (ConvTranspose2d, nn.ConvTranspose2d, (4, 8, 2, 2), (8, 6, 5, 1)),
    (ConvTranspose2d, nn.ConvTranspose2d, (4, 8, 2, 2), (8, 6, 2, 1)),
    (ConvTranspose2d, nn.ConvTranspose2d, (4, 8, 4, 4), (8, 6, 4, 1)),
    (ConvTranspose2d, nn.ConvTranspose2d, (4, 8, 3, 2), (8, 6, 4, 1)),
    (ConvTranspose2d, nn.ConvTranspose2d, (4, 16, 6, 6), (16, 8, 3, 2)),
    (ConvTranspose2d, nn.ConvTranspose2d, (4, 8, 13, 13), (8, 1, 4, 2)),
    (ConvTranspose2d, nn.ConvTranspose2d, (4, 8, 6, 9), (8, 3, 6, 2)),
    (ConvTranspose2d, nn.ConvTranspose2d, (4, 8, 5, 5), (8, 2, 3, 2)),
    (ConvTranspose2d, nn.ConvTranspose2d, (4, 8, 6, 6), (8, 3, 4, 2, 1)),
    (Conv2d, nn.Conv2d, (4, 1, 28, 28), (1, 16, 4, 2)),
    (Conv2d, nn.Conv2d, (4, 3, 13, 16), (3, 8, 4, 2)),
    (Conv2d, nn.Conv2d, (4, 2, 9, 9), (2, 8, 3, 1)),
    (Conv2d, nn.Conv2d, (4, 2, 9, 9), (2, 8, 3, 2)),
    (Conv2d, nn.Conv2d, (4, 16, 13, 13), (16, 32, 4, 2)),
    (Conv2d, nn.Conv2d, (4, 3, 16, 16), (3, 8, 4, 2, 1)),
]
LAYOUTS = [torch.channels_last, torch.contiguous_format]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("ours", "torchs", "shape", "arguments"), LAYERS)
def test_values_and_gradients_of_both_orders_are_torchs(
    ours: Any, torchs: Any, shape: tuple[int, ...], arguments: tuple[int, ...], bias: bool, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    layer = ours(*arguments, bias=bias).double()
    other = torchs(*arguments, bias=bias).double()
    other.load_state_dict(layer.state_dict())
    x = torch.randn(shape, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    results = []
    for of in (layer, other):
        y = of(x)
        first = torch.autograd.grad(y, (x, *of.parameters()), torch.cos(y), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, of.weight))
        results.append([y, *first, *second])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert layer(x.detach()).shape == y.shape  # also where the input wants no gradient


@pytest.mark.parametrize(("ours", "torchs", "shape", "arguments"), LAYERS)
def test_gradients_of_both_orders_in_bfloat16(
    ours: Any, torchs: Any, shape: tuple[int, ...], arguments: tuple[int, ...]
) -> None:
    """Against float64 on the same numbers of 8 bits, within 2 % of each one's norm."""
    torch.manual_seed(0)
    layer = ours(*arguments).bfloat16()
    other = torchs(*arguments).double()
    other.load_state_dict({name: value.double() for name, value in layer.state_dict().items()})
    x = torch.randn(shape).bfloat16()
    gradient = torch.randn_like(layer(x))
    results = []
    for of, dtype in ((layer, torch.bfloat16), (other, torch.float64)):
        inputs = x.to(dtype).requires_grad_()
        y = of(inputs)
        first = torch.autograd.grad(y, (inputs, *of.parameters()), gradient.to(dtype), create_graph=True)
        second = torch.autograd.grad(first[1].sum(), inputs, retain_graph=True)
        results.append([y, *first, *second, *torch.autograd.grad(first[0].sum(), of.weight)])
    for found, expected in zip(*results, strict=True):
        assert found.dtype == torch.bfloat16
        assert (found.double() - expected).norm() < 0.02 * expected.norm()


def test_few_multiplications_round_little() -> None:
    """The generator's second layer at the sizes of training, against float64; in bfloat16 torch computes it."""
    torch.manual_seed(0)
    layer = ConvTranspose2d(256, 128, 4, bias=False)
    nn.init.normal_(layer.weight, std=0.02)
    x, gradient = torch.randn(128, 256, 3, 3).relu(), torch.randn(128, 128, 6, 6)

    def results(of: Any, dtype: torch.dtype) -> list[Tensor]:
        weight, inputs = layer.weight.detach().to(dtype).requires_grad_(), x.to(dtype).requires_grad_()
        y = of(inputs, weight)
        return [y.detach(), *torch.autograd.grad(y, (inputs, weight), gradient.to(dtype))]

    exact = results(nn.functional.conv_transpose2d, torch.float64)
    for found, expected in zip(results(toom_cook, torch.float32), exact, strict=True):
        assert (found.double() - expected).norm() < 2e-6 * expected.norm()
    assert torch.equal(layer(x), toom_cook(x, layer.weight))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), nn.functional.conv_transpose2d(x.bfloat16(), layer.weight.bfloat16()))


def test_the_first_calls_mode_and_device_are_not_those_of_the_next() -> None:
    layer, x = ConvTranspose2d(8, 6, 4), torch.randn(2, 8, 3, 3)
    expected = nn.functional.conv_transpose2d(x, layer.weight, layer.bias)
    for mode in (torch.inference_mode(), torch.device("meta"), FakeTensorMode(allow_non_fake_inputs=True)):
        convolutions.at_points.cache_clear()
        with mode:
            layer(x)
        layer(x).sum().backward()
        torch.testing.assert_close(layer(x), expected)


def test_wrong_channels_are_named() -> None:
    for images in (0, 2):
        with pytest.raises(RuntimeError, match=r"expected input.* to have 8 channels"):
            ConvTranspose2d(8, 6, 4)(torch.randn(images, 7, 3, 3))


def test_no_images_changes_in_place_and_wider_types_are_as_torch_has_them() -> None:
    x = torch.randn(0, 8, 6, 6, requires_grad=True)
    ConvTranspose2d(8, 6, 3, 2)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape
    assert ConvTranspose2d(8, 6, 4)(torch.randn(0, 8, 3, 3)).shape == (0, 6, 6, 6)
    for arguments in ((8, 6, 4, 1), (8, 1, 4, 2)):
        layer = nn.Sequential(ConvTranspose2d(*arguments, bias=False), nn.ReLU(inplace=True))
        layer(torch.randn(2, 8, 3, 3)).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.double()(torch.randn(2, 8, 6, 6, dtype=torch.float64)).dtype == torch.float64
        assert layer.float()(torch.randn(2, 8, 6, 6)).dtype == torch.bfloat16


def gradients(config: RunConfig, monkeypatch: pytest.MonkeyPatch, plain: bool) -> tuple[dict[str, Tensor], float]:
    """Of every parameter after the first step, of the images before tanh, and D's loss."""
    if plain:
        monkeypatch.setattr(models, "Conv2d", nn.Conv2d)
        monkeypatch.setattr(models, "ConvTranspose2d", nn.ConvTranspose2d)
    G, D, constraint = build(config, "cpu")
    rows: list[dict[str, Any]] = []
    found: dict[str, Tensor] = {}

    def keep(_layer: nn.Module, _inputs: Any, images: Tensor) -> None:
        if images.requires_grad:
            images.register_hook(lambda gradient: found.update(images=gradient.float()))

    G.deconv4.register_forward_hook(keep)  # type: ignore[union-attr]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sngan.state.build", lambda *_: (G, D, constraint))
        train(replace(config, steps=1), load("digits"), lambda row, samples: rows.append(row))
    monkeypatch.undo()
    return found | {f"{of}.{n}": p.grad.clone() for of, net in (("G", G), ("D", D)) for n, p in net.named_parameters()
                    if p.grad is not None}, rows[-1]["loss/d"]  # fmt: skip


def closeness(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest error of a gradient, relative to its norm.

    Biases before batch norm have none but noise, and are left out; that of the last bias is the sum of the images',
    which nearly cancel, and is measured by the sum of their sizes.
    """
    told = {n: g.double() for n, g in expected.items() if not ("conv" in n and n.endswith("bias") and n[-6] in "123")}
    sizes = {n: g.norm() for n, g in told.items()} | {"G.deconv4.bias": told["images"].abs().sum()}
    return max(float((found[n].double() - g).norm() / sizes[n]) for n, g in told.items())


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_a_steps_gradients_are_those_of_torchs_layers_in_float32(
    layout: str, seed: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Within 5e-5: float32 in another order.

    With smooth activations: where rounding takes one ReLU of 100,000 to its other side, a gradient moves by 1 %.
    """
    activations = pytest.MonkeyPatch()
    request.addfinalizer(activations.undo)
    activations.setattr(nn, "ReLU", nn.SiLU)
    activations.setattr(nn, "LeakyReLU", lambda slope, inplace: nn.SiLU(inplace))
    config = small(seed=seed, arm="dcgan", g_width=32, memory_format=layout, init="dcgan")
    ours, loss = gradients(config, monkeypatch, plain=False)
    torchs, plain_loss = gradients(config, monkeypatch, plain=True)
    assert set(ours) == set(torchs)
    assert any(not torch.equal(ours[n], torchs[n]) for n in ours)  # else nothing was compared
    assert closeness(ours, torchs) < 5e-5
    assert loss == pytest.approx(plain_loss, rel=1e-6)


def test_a_step_in_bfloat16_is_that_of_float32_within_its_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products have 8 bits, 0.4 %. A batch's gradients mostly cancel: their sum, up to 8 layers on, is within 25 %."""
    config = small(seed=1, arm="dcgan", g_width=32, init="dcgan")
    single, loss = gradients(config, monkeypatch, plain=False)
    half, loss_half = gradients(replace(config, precision="bfloat16"), monkeypatch, plain=False)
    assert 1e-3 < closeness(half, single) < 0.25
    assert loss_half == pytest.approx(loss, rel=0.01)
    assert all(g.dtype == torch.float32 for g in half.values())


@pytest.mark.parametrize("arm", [*ONE_EACH, *FURTHER])
def test_in_bfloat16_parameters_instruments_and_power_iteration_stay_in_float32(arm: str) -> None:
    steps = 20 if arm in ONE_EACH else 5
    config = small(arm=arm, seed=2, precision="bfloat16", steps=steps, log_every=5, n_evaluations=1)
    saved: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    train(config, load("digits"), lambda row, samples: rows.append(row), saved.update)
    floats = [t for net in ("G", "D") for t in saved[net].values() if t.is_floating_point()]
    assert {t.dtype for t in floats} == {torch.float32}
    single: list[dict[str, Any]] = []
    train(replace(config, precision="float32"), load("digits"), lambda row, samples: single.append(row))
    assert rows[0] == single[0] | {}  # before the first step the same, to the bit
    assert rows[-1]["loss/d"] != single[-1]["loss/d"]
    assert rows[-1]["loss/d"] == pytest.approx(single[-1]["loss/d"], rel=0.05)
    if ARMS[arm].constraint == "spectral_norm":  # an estimate in 8 bits would be 0.4 % off
        for row in rows[1:]:
            assert row["sigma/conv3"] == pytest.approx(1, abs=1e-5)
    if arm in ("sn_svd", "sn_conv"):
        assert rows[-1]["sigma/conv3"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_every_option_repeats_itself_and_pairs_its_arms(precision: str, layout: str) -> None:
    config = small(seed=5, arm="plain", precision=precision, memory_format=layout, steps=6)
    finals = []
    for arm in ("plain", "plain", "dcgan"):
        saved: dict[str, Any] = {}
        rows: list[dict[str, Any]] = []
        train(replace(config, arm=arm), load("digits"), lambda row, samples: rows.append(row), saved.update)  # noqa: B023
        finals.append((copy.deepcopy(saved["G"]), rows[0]))
    assert all(torch.equal(finals[0][0][name], value) for name, value in finals[1][0].items())
    for name in ("conv1", "conv2", "conv3"):  # raw weights before the first step
        assert finals[0][1][f"sigma_raw/{name}"] == finals[2][1][f"sigma_raw/{name}"]
