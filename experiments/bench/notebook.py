"""The notebook's training loop as a user would write it: the yardstick of `sngan bench`. Nothing here is fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from PIL import Image
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from sngan.config import RunConfig
from sngan.data import ImageData, data_root


class Images(Dataset):
    """As torchvision's MNIST gives its images: one as PIL has it, transformed on every access, and its label."""

    def __init__(self, data: ImageData, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self._images, self._labels, self._transform = data.images.cpu(), data.labels.cpu(), transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._transform(Image.fromarray(self._images[index, 0].numpy())), int(self._labels[index])


def generator(z_dim: int, width: int) -> nn.Sequential:
    def block(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
        return [nn.ConvTranspose2d(inputs, outputs, kernel, stride), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *block(z_dim, 4 * width, 3, 2),
        *block(4 * width, 2 * width, 4, 1),
        *block(2 * width, width, 3, 2),
        nn.ConvTranspose2d(width, 1, 4, 2),
        nn.Tanh(),
    )


def discriminator(width: int, sn: bool) -> nn.Sequential:
    def conv(inputs: int, outputs: int) -> nn.Module:
        layer = nn.Conv2d(inputs, outputs, 4, 2)
        return spectral_norm(layer) if sn else layer

    return nn.Sequential(
        conv(1, width), nn.BatchNorm2d(width), nn.LeakyReLU(0.2, inplace=True),
        conv(width, 2 * width), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2, inplace=True),
        conv(2 * width, 1), nn.Flatten(0),
    )  # fmt: skip


def notebook_steps(
    config: RunConfig, data: ImageData, sn: bool = False, in_memory: bool = False
) -> Iterator[tuple[float, float]]:
    """Endless training, one step a turn: the losses of D and of G, fetched every step.

    `in_memory`: the images are one tensor on the device, as in many tutorials; else a data loader transforms them.
    """
    device, batch_size, z_dim, lr = data.images.device, config.batch_size, config.z_dim, config.lr
    G, D = generator(z_dim, 64).to(device), discriminator(16, sn).to(device)
    opt_g = torch.optim.Adam(G.parameters(), lr=lr, betas=(0.5, 0.999))
    opt_d = torch.optim.Adam(D.parameters(), lr=lr, betas=(0.5, 0.999))
    criterion = nn.BCEWithLogitsLoss()
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    mnist = config.dataset == "mnist"
    pictures = datasets.MNIST(data_root(config.data_dir), transform=transform) if mnist else Images(data, transform)
    loader = DataLoader(pictures, batch_size=batch_size, shuffle=True)
    images = (data.images.to(device).float() / 127.5 - 1) if in_memory else None
    while True:
        batches = (real for real, _ in loader)
        if images is not None:
            batches = (images[chosen] for chosen in torch.randperm(len(images), device=device).split(batch_size))
        for real in batches:
            real = real.to(device)
            n = len(real)

            opt_d.zero_grad()
            fake = G(torch.randn(n, z_dim, 1, 1, device=device))
            logits_fake, logits_real = D(fake.detach()), D(real)
            loss_fake = criterion(logits_fake, torch.zeros_like(logits_fake))
            loss_real = criterion(logits_real, torch.ones_like(logits_real))
            loss_d = (loss_fake + loss_real) / 2
            loss_d.backward()
            opt_d.step()

            opt_g.zero_grad()
            logits = D(G(torch.randn(n, z_dim, 1, 1, device=device)))
            loss_g = criterion(logits, torch.ones_like(logits))
            loss_g.backward()
            opt_g.step()
            yield loss_d.item(), loss_g.item()
