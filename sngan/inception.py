"""Inception's features, in which FID is defined: torch-fidelity's port of the network, with the user's weights file."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch
from torch import Tensor, nn

from sngan.errors import InputError
from sngan.files import read_file
from sngan.precision import products

OPTION, VARIABLE = "--inception-weights", "SNGAN_INCEPTION"
FILE = "weights-inception-2015-12-05-6726825d.pth"  # of torch-fidelity's release v0.2.0, 96 MB
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_BATCH_SIZE = 32  # images that are in memory at once: about 0.5 GB


class Inception:
    """The Inception v3 of 2015-12-05 on its device; `embed` gives the features of its last pooling.

    `weights` is the user's file, and `sha256` its digest: nothing is ever downloaded. Raises InputError if no path is
    given, if the file is missing, unreadable or another one, and without torch-fidelity.

    Source: Heusel et al. 2017, as torch-fidelity ported their TensorFlow graph.
    """

    name = "Inception v3 of 2015-12-05, torch-fidelity's port"
    n_features = 2048

    def __init__(self, weights: str | Path, device: torch.device | str = "cpu") -> None:
        content = _content(weights)
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.network = _network(content).to(device)

    @torch.no_grad()
    @products("ieee")
    def embed(self, images: Tensor, batch_size: int = _BATCH_SIZE) -> Tensor:
        """Features (N, 2048) float32, on the network's device, of images (N, C, side, side); C is 1 or 3.

        Images are uint8 in 0..255, or floating point in [-1, 1], which is rounded to uint8: FID is defined on 8-bit
        images. Grey ones are repeated in three channels. The network enlarges (or reduces) to 299x299 as TensorFlow 1
        did, and sees `batch_size` images at a time, which bounds the memory and changes results by rounding only.
        Raises ValueError for images of another shape or type, or with pixels that are not finite or out of range.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3]:
            raise ValueError(f"expected images (N, 1 or 3, side, side), got {tuple(images.shape)}")
        device = next(self.network.parameters()).device
        features = [torch.empty(0, self.n_features, device=device)]
        for batch in images.split(batch_size) if len(images) else ():
            features += self.network(_eight_bit(batch).to(device).expand(-1, 3, -1, -1))
        return torch.cat(features)


def _eight_bit(images: Tensor) -> Tensor:
    """uint8 as it is; [-1, 1] -> 0..255 uint8, to the nearest. Raises ValueError for anything else."""
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise ValueError(f"images must be uint8 or floating point, got {images.dtype}")
    if not (images.abs() <= 1).all():  # nor is nan
        raise ValueError("images that are floating point must be finite and in [-1, 1]")
    return images.double().add_(1).mul_(127.5).round_().to(torch.uint8)


def _content(weights: str | Path) -> bytes:
    """The file's bytes. Raises InputError if they cannot be had, or are another file's."""
    wanted = f"{FILE} of torch-fidelity's release v0.2.0, SHA-256 {SHA256}"
    if not weights:
        raise InputError(
            f"FID needs Inception's weights, which this program neither holds nor downloads: name your copy of {wanted}"
            f", with {OPTION} FILE or {VARIABLE}. It also needs torch-fidelity: pip install -e '.[fid]'"
        )
    path = Path(weights)
    try:
        content = read_file(path)
    except (FileNotFoundError, InputError) as error:
        why = f"there is no file {path}" if isinstance(error, FileNotFoundError) else error
        raise InputError(f"no Inception weights: {why}; expected {wanted} ({OPTION} FILE or {VARIABLE})") from error
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise InputError(f"{path} is not the file that FID needs: its SHA-256 is {found}; expected {wanted}")
    return content


def _network(content: bytes) -> nn.Module:
    """Images (N, 3, side, side) uint8 -> a tuple of features (N, 2048). Raises InputError without torch-fidelity."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as port  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f"FID needs torch-fidelity ({error}); it is an extra: pip install -e '.[fid]'") from error
    with torch.random.fork_rng(devices=[]):  # torch's constructors draw from the global generator
        # without a file it would download; and what it unpickles are the bytes that were checked
        file = io.BytesIO(content)
        network = port.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=file)
    return network.eval().requires_grad_(False)  # version 0.3 leaves it in train mode
