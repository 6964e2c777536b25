"""Records one step of DM, DC, DSA, IDC and FRePo, plain PyTorch in float64, beside this file.

python tests/golden/learned/record.py needs PyTorch, which the tests that read the numbers do not.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent / "dc"))
import record as dc

CLASSES, IPC, REAL, SIZE, WIDTH = 3, 2, 4, 8, 4
RIDGE = 1e-3  # large, because the features of so small a network are alike
MOVES = {"brightness": 0.3, "saturation": 0.5, "contrast": 1.4}  # of both sides of DSA


class Wide(nn.Module):
    """Blocks of [BatchNorm,] convolution, ReLU and average pooling; channels double."""

    def __init__(self):
        super().__init__()
        self.conv = nn.ModuleList([nn.Conv2d(1, WIDTH, 3, padding=3)])
        self.norm = nn.ModuleList()
        for i in (1, 2):
            self.norm.append(nn.BatchNorm2d(WIDTH * 2 ** (i - 1)))
            self.conv.append(nn.Conv2d(WIDTH * 2 ** (i - 1), WIDTH * 2**i, 3, padding=1))
        # 8 px are padded to 12, and halved three times.
        self.classifier = nn.Linear(WIDTH * 4, CLASSES)

    def features(self, x):
        for i, conv in enumerate(self.conv):
            x = conv(self.norm[i - 1](x) if i else x)
            x = F.avg_pool2d(F.relu(x), 2)
        return x.flatten(1)

    def forward(self, x):
        return self.classifier(self.features(x))


def drawn(network, seed):
    """Fills a network; returns its arrays under torch's names."""
    draw = np.random.default_rng([seed])
    state = network.state_dict()
    for name, value in state.items():
        if value.dtype.is_floating_point:
            noise = torch.tensor(draw.standard_normal(value.shape))
            scale = 0.1 if value.ndim < 2 else value[0].numel() ** -0.5
            is_scale = name.endswith("running_var") or ("norm" in name and "weight" in name)
            value.copy_(1 + scale * noise.abs() if is_scale else scale * noise)
    return {k: v.numpy().astype(np.float32) for k, v in state.items()}


def color(x):
    count = len(x)
    each = {k: torch.full((count,), v, dtype=x.dtype) for k, v in MOVES.items()}
    return dc.color(x, each)


def gradients(network, x, labels, create_graph=False):
    loss = F.cross_entropy(network(x), labels)
    return torch.autograd.grad(loss, list(network.parameters()), create_graph=create_graph)


def cosine(real, learned):
    total = 0.0
    for a, b in zip(real, learned, strict=True):
        if a.ndim > 1:
            a, b = a.flatten(1), b.flatten(1)
            total = total + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
    return total


def differences(kind):
    def total(real, learned):
        pairs = [(a, b) for a, b in zip(real, learned, strict=True) if a.ndim == 4]
        return sum(((a - b) ** 2 if kind == "squared" else (a - b).abs()).sum() for a, b in pairs)

    return total


def matched(network, real, learned, distance, move=lambda x: x):
    """Distance of gradients, summed over classes, and its gradient in the images."""
    learned = learned.clone().requires_grad_()
    total = 0.0
    for c in range(CLASSES):
        wanted = gradients(network, move(real[c]), torch.full((len(real[c]),), c))
        own = learned.view(CLASSES, -1, *learned.shape[1:])[c]
        found = gradients(network, move(own), torch.full((len(own),), c), create_graph=True)
        total = total + distance(wanted, found)
    return total.item(), torch.autograd.grad(total, learned)[0].numpy()


def decoded(images):
    """IDC's factor 2, class by class, an image's parts after each other."""
    half = images.shape[2] // 2
    parts = [
        F.interpolate(
            images[:, :, i * half : (i + 1) * half, j * half : (j + 1) * half],
            size=images.shape[2:],
            mode="bilinear",
            align_corners=False,
        )
        for i in range(2)
        for j in range(2)
    ]
    return torch.stack(parts, 1).flatten(0, 1)


def frepo(network, real, labels, images, targets):
    """The outer loss, and its gradients in images and labels."""
    network.eval()
    images, targets = images.clone().requires_grad_(), targets.clone().requires_grad_()
    both, known = torch.cat([images, images.flip(3)]), torch.cat([targets, targets])
    with torch.no_grad():
        asked = network.features(real)
    features = network.features(both)
    kernel = features @ features.T
    ridge = RIDGE * kernel.trace() / len(kernel) * torch.eye(len(kernel), dtype=kernel.dtype)
    found = asked @ features.T @ torch.linalg.solve(kernel + ridge, known)
    error = 0.5 * ((found - (F.one_hot(labels, CLASSES) - 1 / CLASSES)) ** 2).sum(1).mean()
    first, second = targets.topk(2, dim=1).values.T
    loss = error - (first - second).clamp(max=1 / CLASSES).mean()
    return loss.item(), *(g.numpy() for g in torch.autograd.grad(loss, [images, targets]))


def network_step(network, images, targets, rate=0.01):
    """Losses of two steps of Adam in train mode, and logits in eval mode after them."""
    for norm in network.norm:
        norm.momentum = 0.9
    optimiser = torch.optim.Adam(network.parameters(), rate)
    network.train()
    for _ in range(2):
        loss = 0.5 * ((network(images) - targets) ** 2).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.train()
    return network(images).detach().numpy()


def main():
    torch.set_default_dtype(torch.float64)
    draw = np.random.default_rng(5)
    shape = (CLASSES, REAL, 1, SIZE, SIZE)
    real, images = draw.standard_normal(shape), draw.standard_normal((CLASSES * IPC, *shape[2:]))
    real, images = (x.astype(np.float32) for x in (real, images))
    recorded = {"real": real, "images": images}
    network = dc.Network(3, WIDTH, CLASSES, 1, SIZE)
    for name, value in drawn(network, 1).items():
        recorded[f"dc.{name}"] = value
    x, r = torch.tensor(images).double(), torch.tensor(real).double()
    cases = {
        "dc": (cosine, x, lambda x: x),
        "dsa": (cosine, x, color),
        "idc_squared": (differences("squared"), x, lambda x: x),
        "idc_absolute": (differences("absolute"), x, lambda x: x),
    }
    for name, (distance, given, move) in cases.items():
        made = decoded if name.startswith("idc") else (lambda x: x)
        inner = given.clone().requires_grad_()
        parts = made(inner)
        value, gradient = matched(network, r, parts.detach(), distance, move)
        if made is decoded:
            gradient = torch.autograd.grad(parts, inner, torch.tensor(gradient))[0].numpy()
        recorded[f"{name}_loss"] = value
        recorded[f"{name}_gradient"] = gradient
    inner = x.clone().requires_grad_()
    means = [network.features(v).flatten(1) for v in (color(r.flatten(0, 1)), color(inner))]
    wanted, found = (m.view(CLASSES, -1, m.shape[1]).mean(1) for m in means)
    loss = ((wanted.detach() - found) ** 2).sum()
    recorded["dm_loss"] = loss.item()
    recorded["dm_gradient"] = torch.autograd.grad(loss, inner)[0].numpy()
    wide = Wide()
    for name, value in drawn(wide, 2).items():
        recorded[f"wide.{name}"] = value
    targets = 0.3 * draw.standard_normal((CLASSES * IPC, CLASSES)).astype(np.float32)
    recorded["targets"] = targets
    targets = torch.tensor(targets).double()
    labels = torch.arange(CLASSES).repeat_interleave(REAL)
    found = frepo(wide, r.flatten(0, 1), labels, x, targets)
    for name, value in zip(("loss", "gradient", "label_gradient"), found, strict=True):
        recorded[f"frepo_{name}"] = value
    recorded["wide_logits"] = wide(x).detach().numpy()
    recorded["trained_logits"] = network_step(wide, x, targets)
    recorded["trained_mean"] = wide.norm[1].running_mean.numpy()
    kept = {k: np.asarray(v, np.float32) for k, v in recorded.items() if "num_batches" not in k}
    np.savez_compressed(FOLDER / "steps.npz", **kept)


if __name__ == "__main__":
    main()
