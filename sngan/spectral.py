"""What constrains D: spectral norm, the spectral norm penalty, and removal for inference.

Notation: W is a layer's kernel as the matrix (out, in*kh*kw), u its left and v its right singular vector,
sigma = u'Wv, W_SN = W / sigma. (Some public texts exchange u and v, or print W_SN = u'Wv.)
Source: Miyato et al. 2018, section 2.1 and Algorithm 1; Yoshida & Miyato 2017.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm, spectral_norm
from torch.nn.utils.spectral_norm import SpectralNorm as _SpectralNormHook

from sngan.sigma import standing_still, weights
from sngan.values import submodules, whole

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)
_START_ITERATIONS = 15  # torch's number at registration
_LISTED = 6  # names in a message

# None: torch's global generator; a function gives each layer, by name, a generator of its own
GeneratorSource = torch.Generator | Callable[[str], torch.Generator] | None
# names, glob patterns and classes of modules
Selection = str | type[nn.Module] | Iterable[str | type[nn.Module]] | None


def weight_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, layer) of every Conv*, ConvTranspose* and Linear, in forward order of registration.

    Raises ValueError for what is no network, or has parts that are compiled to TorchScript or not yet initialized.
    """
    for name, layer in submodules(module):
        if isinstance(layer, (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear)):
            yield name, layer


def matrix_dim(layer: nn.Module) -> int:
    """The kernel's dimension that becomes the matrix's rows: output channels, dim 1 in transposed convolutions."""
    return 1 if isinstance(layer, _TRANSPOSED) else 0


def as_matrix(weight: Tensor, dim: int = 0) -> Tensor:
    """(shape[dim], rest) view of a kernel."""
    return weight.movedim(dim, 0).flatten(1) if weight.ndim > 1 else weight.reshape(1, -1)


def spectral_norm_of(layer: nn.Module, tensor: str = "weight") -> _SpectralNorm | None:
    """The layer's spectral norm parametrization, or None."""
    if not parametrize.is_parametrized(layer, tensor):
        return None
    found = [p for p in layer.parametrizations[tensor] if isinstance(p, _SpectralNorm)]  # type: ignore[index]
    return found[0] if found else None


def _old_spectral_norm(layer: nn.Module, tensor: str = "weight") -> bool:
    """Whether torch's older `nn.utils.spectral_norm`, which works by a hook, computes the layer's weight."""
    return any(isinstance(h, _SpectralNormHook) and h.name == tensor for h in layer._forward_pre_hooks.values())


class _Weight(NamedTuple):
    name: str  # as `log_sigmas` names it
    owner: nn.Module
    tensor: str  # its owner's name of it


def _unconstrained(module: nn.Module) -> list[_Weight]:
    """Every weight of two dimensions or more that no spectral norm divides."""
    with torch.no_grad(), standing_still(module):
        return [
            _Weight(name, owner, tensor)
            for name, owner, tensor, _ in weights(module)
            if spectral_norm_of(owner, tensor) is None and not _old_spectral_norm(owner, tensor)
        ]


def unconstrained_weights(module: nn.Module) -> list[str]:
    """Names of the weights of two dimensions or more that no spectral norm divides, as `log_sigmas` names them.

    In order of registration; nothing is moved. A weight is a parameter with "weight" in its name, so that the table
    of a position embedding, say, is none. Raises ValueError for what is no network, or has parts that are compiled to
    TorchScript or not yet initialized.
    """
    return [weight.name for weight in _unconstrained(module)]


def _check_parameter(where: str, layer: nn.Module) -> None:
    """Raises ValueError for a weight that is no parameter, such as one that a hook computes (weight norm, pruning)."""
    if not parametrize.is_parametrized(layer, "weight") and layer._parameters.get("weight") is None:
        raise ValueError(f"{where} has a weight that is no parameter: a hook computes it, which is to be removed "
                         "first, or it is a buffer, or there is none")  # fmt: skip


def raw_weight(layer: nn.Module) -> Tensor:
    """The parameter itself. Reading `layer.weight` instead would move u and v in train mode.

    Of a weight that is made of several (weight normalization's length and direction) the largest, the last of equals.
    """
    if parametrize.is_parametrized(layer, "weight"):
        chain: Any = layer.parametrizations["weight"]  # type: ignore[index]
        if hasattr(chain, "original"):
            return chain.original
        return max(reversed([*chain.parameters(recurse=False)]), key=Tensor.numel)
    return layer.weight  # type: ignore[return-value]


def _power_iteration(matrix: Tensor, u: Tensor, v: Tensor, rounds: int) -> None:
    """v <- W'u / |W'u|, u <- Wv / |Wv|, in place. Source: Miyato et al. 2018, Algorithm 1.

    Where a product is zero, as of a zero W, the vector stays: once zero it could never grow again.
    """
    for _ in range(rounds):
        for side, (vector, other) in ((matrix.mH, (v, u)), (matrix, (u, v))):
            unit = normalize(torch.mv(side, other), dim=0, eps=torch.finfo(matrix.dtype).tiny)
            torch.where(unit.any(), unit, vector, out=vector)


def _sigma(matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """u'Wv, a real () tensor."""
    return torch.vdot(u, torch.mv(matrix, v)).real


def _start_vectors(name: str, matrix: Tensor, source: GeneratorSource) -> tuple[Tensor, Tensor]:
    """u and v from normal draws, after 15 rounds as in torch's registration.

    Raises ValueError for a weight without values, or so small or large that its type has no room for their squares.
    """
    where = f"layer {name!r}" if name else "the layer"
    _check_type(where, matrix)
    generator = source(name) if callable(source) else source
    if not isinstance(generator, torch.Generator | None):
        raise ValueError("generator: expected a torch.Generator, or a function that gives one for a layer's name, "
                         f"got {generator!r}")  # fmt: skip

    def draw(size: int) -> Tensor:
        device = matrix.device if generator is None else generator.device
        vector = torch.randn(size, generator=generator, dtype=torch.float64, device=device)
        return normalize(vector.to(matrix), dim=0)

    u, v = draw(matrix.shape[0]), draw(matrix.shape[1])
    _power_iteration(matrix, u, v, _START_ITERATIONS)
    norm, largest = matrix.norm().item(), matrix.abs().max().item()  # sigma lies between them
    if matrix.any() and not (largest >= _smallest_sigma(matrix.dtype) and norm < torch.inf):
        kind = str(matrix.dtype).removeprefix("torch.")
        raise ValueError(f"{where} has a weight of norm {norm:.3g} and largest entry {largest:.3g}: not finite, or "
                         f"too small or large for a power iteration in {kind}, which needs the squares of its "
                         "values")  # fmt: skip
    return u, v


def _check_type(where: str, weight: Tensor) -> None:
    """Raises ValueError for a weight of which no power iteration can be made, whatever its values."""
    kinds = [str(dtype).removeprefix("torch.") for dtype in (*_TYPES, weight.dtype)]
    if weight.is_meta:
        raise ValueError(f"{where} has a weight without values (device meta)")
    if weight.dtype not in _TYPES or weight.layout != torch.strided:
        raise ValueError(f"{where} has a weight in {kinds[-1]} ({weight.layout}); a power iteration needs a dense one "
                         f"in {', '.join(kinds[:-1])}")  # fmt: skip


def _smallest_sigma(dtype: torch.dtype) -> float:
    """Below it the squares of which a norm is the root, or the values themselves, lose digits."""
    sums = torch.finfo(torch.promote_types(dtype, torch.float32))  # in which norms are summed up
    return max((sums.tiny / sums.eps) ** 0.5, torch.finfo(dtype).tiny)


def _separate(module: nn.Module) -> None:
    """Let a module share nothing with its copies but tensors and submodules.

    The class of a parametrized module holds its parametrized tensors as properties, and a deep copy shares it: what
    torch adds to the class or deletes from it for one of them would change all. A shallow copy shares the tables of
    parameters, buffers and submodules as well.
    """
    if parametrize.is_parametrized(module):
        kind = type(module)
        module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))  # type: ignore[assignment]
    for name in ("_parameters", "_buffers", "_modules"):
        vars(module)[name] = copy.copy(vars(module)[name])
    if isinstance(chains := module._modules.get("parametrizations"), nn.ModuleDict):
        module._modules["parametrizations"] = chains = copy.copy(chains)
        vars(chains)["_modules"] = copy.copy(chains._modules)


@contextmanager
def _whole_or_not_at_all(modules: Iterable[nn.Module], what: str) -> Iterator[None]:
    """The modules are as before if something is raised within; what torch raises becomes ValueError."""
    before = [(m, type(m), dict(vars(m))) for m in dict.fromkeys(modules)]
    tables = [(table, copy.copy(table)) for *_, content in before for table in content.values() if type(table) is dict]
    try:
        yield
    except BaseException as error:
        for module, kind, content in before:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(content)
        for table, content in tables:
            table.clear()
            table.update(content)
        if isinstance(error, Exception):
            raise ValueError(f"{what}, and nothing was changed: {error}") from error
        raise


def _selectors(chosen: Any, argument: str) -> list[str | type[nn.Module]]:
    """What `only` or `skip` holds, one by one. Raises ValueError for what is neither text nor a class of modules."""
    if isinstance(chosen, str | type | nn.Module) or not isinstance(chosen, Iterable):
        chosen = [chosen]
    several: list[Any] = list(chosen)
    for one in several:
        if not isinstance(one, str) and not (isinstance(one, type) and issubclass(one, nn.Module)):
            raise ValueError(f"{argument}: expected the name of a layer, a pattern of names or a subclass of "
                             f"torch.nn.Module, or several of these, got {one!r:.100}")  # fmt: skip
    return several


def _fits(one: str | type[nn.Module], names: Iterable[str], part: nn.Module | None = None) -> bool:
    """Whether a name or pattern is that of one of the names, or a class that of the module."""
    if isinstance(one, type):
        return isinstance(part, one)
    return any(name == one or fnmatchcase(name, one) for name in names)


def _listed(names: Iterable[str]) -> str:
    """The names in quotes; of many the first ones."""
    quoted = [repr(name or "weight") for name in names]
    if len(quoted) > _LISTED:
        quoted[_LISTED // 2 :] = [f"{len(quoted) - _LISTED // 2} more"]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def _near(wrong: str, names: Iterable[str]) -> str:
    """The names that `wrong` is nearly one of, as a whole or by its last part, else those at the top."""
    lower = {name: name.lower() for name in names if name}
    ends = {name: word.rpartition(".")[2] for name, word in lower.items()}
    alike = get_close_matches(wrong.lower(), lower.values())
    alike += get_close_matches(wrong.lower().rpartition(".")[2], set(ends.values()))
    near = [name for name in lower if lower[name] in alike or ends[name] in alike]
    return f"near it: {_listed(near)}" if near else f"there are {_listed(n for n in lower if '.' not in n)}"


def _selected(module: nn.Module, chosen: Selection, argument: str, candidates: list[_Weight]) -> set[_Weight]:
    """Those of the weights that `only` or `skip` selects: by name, or by a module that they are in.

    Raises ValueError for a name, pattern or class that selects nothing.
    """
    places: dict[nn.Module, list[str]] = {}
    for path, part in module.named_modules(remove_duplicate=False):  # a layer in two places has two names
        places.setdefault(part, []).append(path)
    names = {weight: [f"{path}.{weight.tensor}".lstrip(".") for path in places[weight.owner]] for weight in candidates}
    selected, kind = set(), type(module).__name__
    for one in _selectors(chosen, argument):
        tops = [part for part, paths in places.items() if _fits(one, paths, part)]
        inside = {part for top in tops for part in top.modules()}
        found = {weight for weight in candidates if weight.owner in inside or _fits(one, names[weight])}
        if isinstance(one, str) and not found and not tops:
            known = dict.fromkeys(name for several in (*places.values(), *names.values()) for name in several)
            raise ValueError(f"{argument}={one!r}: nothing in {kind} has such a name; {_near(one, known)}")
        if not found and (argument == "only" or not tops):
            shown = one.__name__ if isinstance(one, type) else repr(one)
            what = "no weight of two dimensions or more in it" if tops else f"no such module in {kind}"
            owners = sorted({type(weight.owner).__name__ for weight in candidates})
            raise ValueError(f"{argument}={shown}: there is {what}; the weights of {kind} are in {', '.join(owners)}")
        selected |= found
    return selected


def _in_scope(module: nn.Module, only: Selection, skip: Selection) -> tuple[list[_Weight], list[_Weight]]:
    """The layers' weights that `only` and `skip` leave to be divided, and other weights that nothing divides.

    Raises ValueError if nothing is to be divided.
    """
    layers = [_Weight(name, layer, "weight") for name, layer in weight_layers(module)]
    if not layers:
        raise ValueError(f"{type(module).__name__} has no Conv*, ConvTranspose* or Linear layer to normalize")
    known = set(layers)
    others = [w for w in _unconstrained(module) if w not in known]
    selected = {*layers, *others} if only is None else _selected(module, only, "only", [*layers, *others])
    if skip is not None:
        selected -= _selected(module, skip, "skip", [*layers, *others])
    if not selected.intersection(layers):
        raise ValueError(f"only and skip leave no Conv*, ConvTranspose* or Linear layer of {type(module).__name__} to "
                         f"normalize; it has {_listed(w.name for w in layers)}")  # fmt: skip
    return [w for w in layers if w in selected], [w for w in others if w in selected]


def _left_as_they_are(weights: list[_Weight]) -> str:
    """What the warning says of weights that spectral norm is not for."""
    kinds: dict[str, list[str]] = {}
    for weight in weights:
        kinds.setdefault(type(weight.owner).__name__, []).append(weight.name)
    named = "; ".join(f"{_listed(names)} ({kind})" for kind, names in kinds.items())
    return (f"apply_spectral_norm divides the weights of Conv*, ConvTranspose* and Linear only, and leaves {named} "
            "unconstrained. If that is meant, say so with skip: their names, patterns or classes.")  # fmt: skip


def _check_layer(name: str, layer: nn.Module) -> None:
    """Raises ValueError for a layer whose weight is no plain parameter, or that no power iteration can be made of."""
    where = f"layer {name or type(layer).__name__!r}"
    if spectral_norm_of(layer) is not None or _old_spectral_norm(layer):
        raise ValueError(f"{where} has a spectral norm already; remove it first with remove_spectral_norm")
    if parametrize.is_parametrized(layer, "weight"):
        raise ValueError(f"{where} has a weight that something else computes already; remove that first")
    _check_parameter(where, layer)
    weight = raw_weight(layer)
    _check_type(where, weight)
    if not (weight.isfinite().all() and weight.any()):
        raise ValueError(f"{where} has a weight of norm {weight.norm().item()}; "
                         "spectral norm needs a finite non-zero weight")  # fmt: skip


def apply_spectral_norm(
    module: nn.Module,
    n_power_iterations: int = 1,
    generator: GeneratorSource = None,
    *,
    only: Selection = None,
    skip: Selection = None,
) -> nn.Module:
    """Divide the weight of every Conv*, ConvTranspose* and Linear by its power-iteration sigma, in place.

    torch's `parametrizations.spectral_norm`: in train mode every read of `.weight` runs `n_power_iterations`
    rounds on the layer's u and v; in eval mode they stand still. Transposed convolutions use dim 1. The start
    vectors come from `generator` (on any device), or from the generator that the function `generator` gives for
    a layer's name, or from torch's global one.
    `only` and `skip` are a layer's name, a pattern of names ("*.mlp.*") or a class of modules, or several of these;
    each selects what it fits and everything inside of that: skip=nn.MultiheadAttention skips its `out_proj`, too.
    Initialize before: writing to `.weight` afterwards does nothing. Embeddings, recurrent layers, an attention's
    `in_proj_weight` and other weights of two dimensions or more are left as they are, and a UserWarning names them,
    except for those that `only` or `skip` left out. Where layers share a parameter, or one shares it with an embedding,
    each of these layers divides it by a sigma of its own, and nobody else does.
    Deviations: torch's round updates u before v, Algorithm 1 v before u; the same sequence, half a round apart. The
    smallest norm that a vector is divided by is the type's smallest number, torch's 1e-12: small weights work, too.

    Raises ValueError if there is no such layer, if `only` or `skip` holds what is not in the module, if the weight of
    one is no plain parameter (it has a spectral norm already, another parametrization, weight norm, a pruning mask), if
    a weight is zero, not finite, or too small or large for its type, and for n_power_iterations that is no whole number
    above 0, a generator that is none, and what torch cannot do; nothing is changed then. Returns `module`.
    Source: Miyato et al. 2018, Algorithm 1.
    """
    n_power_iterations = whole(n_power_iterations, "n_power_iterations", 1)
    chosen, left = _in_scope(module, only, skip)
    layers, starts, fixed = [(name, layer) for name, layer, _ in chosen], [], torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.no_grad():
        for name, layer in layers:
            try:
                _check_layer(name, layer)
            except ValueError as error:
                hint = f"; skip={name!r} leaves it as it is" if name else ""
                raise ValueError(f"{error}{hint}") from None
            source = fixed if generator is None else generator
            starts.append(_start_vectors(name, as_matrix(raw_weight(layer), matrix_dim(layer)), source))
    if left:  # before anything changes: it may be an error
        warnings.warn(_left_as_they_are(left), stacklevel=2)
    with torch.inference_mode(False), torch.no_grad():
        _divide(layers, starts, n_power_iterations, use_starts=generator is not None)
    return module


def _divide(layers: list, starts: list, n_power_iterations: int, use_starts: bool) -> None:
    """Put torch's spectral norm on the layers: all or none; from these vectors (u, v), else from torch's own."""
    with _whole_or_not_at_all((layer for _, layer in layers), "spectral norm cannot be applied"):
        for (_, layer), (u, v) in zip(layers, starts, strict=True):
            eps = torch.finfo(raw_weight(layer).dtype).tiny
            _separate(layer)
            with torch.random.fork_rng(devices=[], enabled=use_starts):
                spectral_norm(layer, n_power_iterations=n_power_iterations, eps=eps, dim=matrix_dim(layer))
            if use_starts:
                parametrization = spectral_norm_of(layer)
                assert parametrization is not None
                parametrization._u.copy_(u)
                parametrization._v.copy_(v)


def hold_power_iteration(module: nn.Module) -> nn.Module:
    """From here on reading a weight no longer moves u and v; `advance_power_iteration` does. Returns `module`.

    Of convolutions and linear layers, as those that `apply_spectral_norm` normalizes.
    """
    for _, layer in weight_layers(module):
        if (parametrization := spectral_norm_of(layer)) is not None:
            parametrization.n_power_iterations = 0
    return module


@torch.no_grad()
def advance_power_iteration(module: nn.Module, rounds: int = 1) -> None:
    """`rounds` rounds of power iteration in every spectrally normalized layer (Algorithm 1, once per update).

    Raises ValueError for rounds that are no whole number from 0 on.
    """
    rounds = whole(rounds, "rounds", 0)
    for _, layer in weight_layers(module):
        if (parametrization := spectral_norm_of(layer)) is not None:
            _power_iteration(_normalized(layer, parametrization), parametrization._u, parametrization._v, rounds)


@torch.no_grad()
def sigma_estimates(module: nn.Module) -> dict[str, Tensor]:
    """u'Wv of every spectrally normalized layer with u and v as they stand: scalars, nothing moved."""
    estimates = {}
    for name, layer in weight_layers(module):
        if (parametrization := spectral_norm_of(layer)) is not None:
            matrix = _normalized(layer, parametrization)
            estimates[name] = _sigma(matrix, parametrization._u, parametrization._v)
    return estimates


def _normalized(layer: nn.Module, parametrization: _SpectralNorm) -> Tensor:
    """The matrix that the spectral norm divides: as its own `dim` says, after the parametrizations before it."""
    chain: Any = layer.parametrizations["weight"]  # type: ignore[index]
    weight = chain.original
    if chain[0] is not parametrization:
        with standing_still(layer):
            for before in itertools.takewhile(lambda other: other is not parametrization, chain):
                weight = before(weight)
    return as_matrix(weight, parametrization.dim)


@torch.inference_mode(False)
@torch.no_grad()
def remove_spectral_norm(module: nn.Module) -> nn.Module:
    """Replace every spectrally normalized weight by the plain W / (u'Wv) of eval mode, in place.

    Outputs equal those of `module.eval()` before. That is for every layer and every tensor of it, an embedding's or an
    LSTM's as well, and for torch's older hook. Each such weight becomes a new parameter: who shared the old one
    (another layer, a copy) keeps it unchanged, and an optimizer that knows the old one has to be told of the new one.
    Returns `module`; layers without spectral norm are left alone.
    Raises ValueError for a weight that carries further parametrizations, which would be lost; nothing is changed then.
    """
    constrained, hooked = [], []
    for path, owner in submodules(module):
        if parametrize.is_parametrized(owner):
            for name, chain in owner.parametrizations.items():  # type: ignore[union-attr,operator]
                if any(isinstance(p, _SpectralNorm) for p in chain):
                    constrained.append((owner, name, chain))
                    is_plain = any("original" in table for table in (chain._parameters, chain._buffers))
                    if len(chain) > 1 or not is_plain:
                        raise ValueError(f"layer {path!r} has something else on its {name} beside its spectral norm, "
                                         "such as a parametrization or a pruning mask; remove that first")  # fmt: skip
        for name in [h.name for h in owner._forward_pre_hooks.values() if isinstance(h, _SpectralNormHook)]:
            hooked.append((owner, name))
            if owner._parameters.get(f"{name}_orig") is None:
                raise ValueError(f"layer {path!r} has something else on its {name} beside its spectral norm: "
                                 f"{name}_orig is no plain parameter; remove that first")  # fmt: skip
    changed = [owner for owner, *_ in (*constrained, *hooked)]
    changed += [part for *_, chain in constrained for part in chain.modules()]
    with _whole_or_not_at_all(changed, "spectral norm cannot be removed"):
        for owner, name, chain in constrained:
            _separate(owner)
            chain.eval()
            plain, original = getattr(owner, name).detach().clone(), chain.original
            parametrize.remove_parametrizations(owner, name, leave_parametrized=False)
            setattr(owner, name, nn.Parameter(plain, original.requires_grad) if name in owner._parameters else plain)
        for owner, name in hooked:
            _separate(owner)
            trained = owner.get_parameter(f"{name}_orig").requires_grad
            nn.utils.remove_spectral_norm(owner, name)
            owner.get_parameter(name).requires_grad_(trained)
    return module


class SpectralPenalty(nn.Module):
    """0.5 * sum over layers of sigma(W)^2, WITHOUT the weight lambda; its gradient is sigma u v' per layer.

    One call runs `n_power_iterations` rounds on vectors that persist from call to call and are constants of the
    gradient. Convolution kernels are taken as (out, in*kh*kw); biases and batch norm are untouched; layers
    with a spectral norm are skipped; of another parametrization the resulting weight is penalized. The penalized
    module is not a submodule: only the vectors are in the state; they follow its weights to another type or device.
    Raises ValueError for a weight that a hook computes, such as torch's older weight norm or pruning, for one that is
    too small or large for its type (zero is none of these), and for n_power_iterations that is no whole number above 0.

    Source: Yoshida & Miyato 2017. Deviation: the vectors start with 15 rounds, as torch's spectral norm does.
    """

    def __init__(self, module: nn.Module, n_power_iterations: int = 1, generator: GeneratorSource = None) -> None:
        super().__init__()
        if isinstance(n_power_iterations, float):
            raise ValueError(f"n_power_iterations must be a whole number, got {n_power_iterations}; "
                             "the penalty's weight is no argument: it multiplies what a call returns")  # fmt: skip
        self.n_power_iterations = whole(n_power_iterations, "n_power_iterations", 1)
        if not any(weight_layers(module)):
            raise ValueError(f"{type(module).__name__} has no Conv*, ConvTranspose* or Linear layer to penalize")
        # in a tuple, so that nn.Module does not register the layers as its own
        self._layers = tuple(
            (name, layer)
            for name, layer in weight_layers(module)
            if spectral_norm_of(layer) is None and not _old_spectral_norm(layer)
        )
        with torch.no_grad():
            for i, (name, layer) in enumerate(self._layers):
                _check_parameter(f"layer {name!r}", layer)
                u, v = _start_vectors(name, as_matrix(layer.weight, matrix_dim(layer)), generator)  # type: ignore[arg-type]
                self.register_buffer(f"u{i}", u)
                self.register_buffer(f"v{i}", v)
            like = next(self.buffers(), torch.zeros(())).real
            self.register_buffer("penalized", like.new_zeros(len(self._layers)), persistent=False)  # by the last call

    def _triples(self) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
        for i, (name, layer) in enumerate(self._layers):
            _check_parameter(f"layer {name!r}", layer)
            matrix = as_matrix(layer.weight, matrix_dim(layer))  # type: ignore[arg-type]
            yield name, matrix, self._following(f"u{i}", matrix), self._following(f"v{i}", matrix)

    def _following(self, name: str, like: Tensor) -> Tensor:
        """The buffer of this name, in the type and on the device that the weight has by now."""
        buffer = self.get_buffer(name)
        if buffer.dtype != like.dtype or buffer.device != like.device:
            buffer = buffer.to(like)
            setattr(self, name, buffer)
        return buffer

    @torch.no_grad()
    def advance(self) -> None:
        """Run the power iteration without computing the penalty."""
        for _, matrix, u, v in self._triples():
            _power_iteration(matrix, u, v, self.n_power_iterations)

    @torch.no_grad()
    def sigma_estimates(self) -> dict[str, Tensor]:
        """u'Wv per layer with the vectors as they stand: scalars, nothing moved."""
        return {name: _sigma(matrix, u, v) for name, matrix, u, v in self._triples()}

    def forward(self) -> Tensor:
        """() scalar, differentiable in the weights, in float32 where they are in half precision."""
        self.advance()
        # copies: the next call changes the vectors in place, and the backward pass needs today's
        sigmas = [_sigma(m, u.clone(), v.clone()) for _, m, u, v in self._triples()]
        if not sigmas:
            return torch.zeros(())
        stacked = torch.stack(sigmas)
        self._following("penalized", stacked).copy_(stacked.detach())
        return 0.5 * stacked.to(torch.promote_types(stacked.dtype, torch.float32)).square().sum()

    @torch.no_grad()
    def task_ratios(self, weight: float) -> dict[str, Tensor]:
        """weight * sigma / |<grad L, u v'>| per layer, of the last update: scalars, infinite if L has no gradient.

        How hard the penalty pulls at a layer's largest singular direction, in units of the pull of the loss L without
        it. Reads the gradients that the backward pass of L + weight * penalty left; empty before the first one, and
        for layers whose weight is no parameter of its own.
        """
        ratios = {}
        penalized = self.get_buffer("penalized")
        for sigma, (name, layer), (_, _, u, v) in zip(penalized, self._layers, self._triples(), strict=True):
            gradient = layer.weight.grad if "weight" in layer._parameters else None  # type: ignore[union-attr]
            if gradient is not None:
                pull = weight * sigma
                total = _sigma(as_matrix(gradient, matrix_dim(layer)), u, v)  # type: ignore[arg-type]
                ratios[name] = pull / (total - pull).abs()
        return ratios
