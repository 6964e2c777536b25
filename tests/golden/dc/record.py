"""Records numbers of a plain PyTorch writing of the DC ConvNet, DSA and SGD, beside this file.

python tests/golden/dc/record.py needs PyTorch, which the tests that read the numbers do not.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[1]))
from seeded import seeded_state

SEED = 3
# Name: depth, width, classes, channels, size.
NETWORKS = {"grey": (3, 8, 10, 1, 28), "colour": (4, 6, 5, 3, 32)}
# Name: images, channels, size.
IMAGES = {"grey": (2, 1, 28), "colour": (3, 3, 12), "odd": (3, 1, 9)}
STEPS, DROP, RATE = 5, 3, 0.05  # of SGD; the rate falls to a tenth before step `DROP`


class Network(nn.Module):
    """Blocks of convolution, group norm with a channel in each group, ReLU and average pooling."""

    def __init__(self, depth, width, classes, channels, size):
        super().__init__()
        layers, inputs = [], channels
        for block in range(depth):
            padding = 3 if channels == 1 and block == 0 else 1
            layers += [nn.Conv2d(inputs, width, 3, padding=padding), nn.GroupNorm(width, width)]
            layers += [nn.ReLU(), nn.AvgPool2d(2)]
            inputs = width
        self.features = nn.Sequential(*layers)
        with torch.no_grad():
            flat = self.features(torch.zeros(1, channels, size, size)).flatten(1).shape[1]
        self.classifier = nn.Linear(flat, classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def network(name):
    """A network with seeded weights, and its input and classes; lists the weights in a file."""
    depth, width, classes, channels, size = NETWORKS[name]
    made = Network(depth, width, classes, channels, size)
    listing = FOLDER / f"{name}.state_dict.json"
    entries = [[i, k, list(v.shape)] for i, (k, v) in enumerate(made.state_dict().items())]
    listing.write_text(json.dumps(entries) + "\n")
    state = seeded_state(listing, SEED)
    made.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    draw = np.random.default_rng([SEED, size])
    images = draw.standard_normal((6, channels, size, size)).astype(np.float32)
    return made, torch.from_numpy(images), torch.arange(6) % classes


def record_networks():
    """Logits and gradient of the input; of one network losses of SGD and the logits after it."""
    recorded = {}
    for name in NETWORKS:
        made, images, labels = network(name)
        images.requires_grad_()
        logits = made(images)
        loss = F.cross_entropy(logits, labels)
        recorded[f"{name}_logits"] = logits.detach().numpy()
        recorded[f"{name}_gradient"] = torch.autograd.grad(loss, images)[0][:, :, :6, :6].numpy()
        if name != "grey":
            continue
        images = images.detach()
        rate, losses = RATE, []
        optimiser = torch.optim.SGD(made.parameters(), rate, momentum=0.9, weight_decay=5e-4)
        for step in range(STEPS):
            if step == DROP:
                optimiser.param_groups[0]["lr"] = 0.1 * rate
            loss = F.cross_entropy(made(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        recorded[f"{name}_losses"] = np.float32(losses)
        recorded[f"{name}_trained"] = made(images).detach().numpy()
    np.savez_compressed(FOLDER / "networks.npz", **recorded)


def parameters(name):
    """Draws within the released ranges, and some at their ends."""
    count, _, size = IMAGES[name]
    draw = np.random.default_rng([SEED, size, 1])
    shift, hole = int(size / 8 + 0.5), int(size / 2 + 0.5)
    ends = {
        "brightness": draw.uniform(-0.5, 0.5, count),
        "saturation": draw.uniform(0, 2, count),
        "contrast": draw.uniform(0.5, 1.5, count),
        "shift": draw.integers(-shift, shift + 1, (count, 2)),
        "hole": draw.integers(0, size + 1 - hole % 2, (count, 2)),
        "flip": np.arange(count) % 2 == 0,
        "scale": draw.uniform(1 / 1.2, 1.2, (count, 2)),
        "angle": np.deg2rad(draw.uniform(-15, 15, count)),
    }
    ends["shift"][0], ends["hole"][0] = (-shift, shift), (0, size - hole % 2)
    ends["scale"][0], ends["angle"][0] = (1 / 1.2, 1.2), np.deg2rad(15)
    return {k: v if v.dtype == bool else v.astype(np.float32) for k, v in ends.items()}


def color(x, p):
    x = x + p["brightness"][:, None, None, None]
    mean = x.mean(1, keepdim=True)
    x = (x - mean) * p["saturation"][:, None, None, None] + mean
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * p["contrast"][:, None, None, None] + mean


def crop(x, p):
    size, margin = x.shape[2], x.shape[2]
    padded = F.pad(x, (margin,) * 4)
    cut = [
        image[:, margin + int(down) :, margin + int(right) :][:, :size, :size]
        for image, (down, right) in zip(padded, p["shift"], strict=True)
    ]
    return torch.stack(cut)


def cutout(x, p):
    hole, mask = int(x.shape[2] / 2 + 0.5), torch.ones_like(x)
    for image, middle in zip(mask, p["hole"], strict=True):
        top, left = (int(place) - hole // 2 for place in middle)
        image[:, max(top, 0) : top + hole, max(left, 0) : left + hole] = 0
    return x * mask


def flip(x, p):
    return torch.where(p["flip"][:, None, None, None], x.flip(3), x)


def resampled(x, theta):
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def scale(x, p):
    theta = torch.zeros(len(x), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = p["scale"][:, 1], p["scale"][:, 0]
    return resampled(x, theta)


def rotate(x, p):
    theta = torch.zeros(len(x), 2, 3)
    cosine, sine = torch.cos(p["angle"]), torch.sin(p["angle"])
    theta[:, 0, 0], theta[:, 0, 1] = cosine, -sine
    theta[:, 1, 0], theta[:, 1, 1] = sine, cosine
    return resampled(x, theta)


OPERATIONS = (color, crop, cutout, flip, scale, rotate)


def record_augmentation():
    """Augmented images, and the gradient of their product with weights."""
    recorded = {}
    for name, (count, channels, size) in IMAGES.items():
        draw = np.random.default_rng([SEED, size])
        shape = (2, count, channels, size, size)
        images, weights = torch.from_numpy(draw.standard_normal(shape).astype(np.float32))
        drawn = parameters(name)
        recorded |= {f"{name}_given_{k}": v for k, v in drawn.items()}
        tensors = {k: torch.from_numpy(v) for k, v in drawn.items()}
        for operation in OPERATIONS:
            x = images.clone().requires_grad_()
            y = operation(x, tensors)
            gradient = torch.autograd.grad((weights * y).sum(), x)[0]
            recorded[f"{name}_{operation.__name__}"] = y.detach().numpy()
            recorded[f"{name}_{operation.__name__}_gradient"] = gradient.numpy()
    np.savez_compressed(FOLDER / "augmentation.npz", **recorded)


if __name__ == "__main__":
    record_networks()
    record_augmentation()
