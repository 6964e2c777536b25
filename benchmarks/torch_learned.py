"""FRePo's and DSA's outer steps in plain PyTorch, written from the formulas of the papers.

Images are [B, C, S, S]. Every step returns the loss and the gradient of what is learned.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

RIDGE = 1e-6
OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")


class InstanceConvNet(nn.Module):
    """Three blocks of 3x3 convolution, group norm of a channel each, ReLU and average pooling."""

    def __init__(self, width: int, num_classes: int, image_size: int):
        super().__init__()
        layers: list[nn.Module] = []
        for block in range(3):
            layers += [
                nn.Conv2d(width if block else 1, width, 3, padding=1 if block else 3),
                nn.GroupNorm(width, width),
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * ((image_size + 4) // 8) ** 2, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of grey images."""
        return self.classifier(self.features(x).flatten(1))


class WideConvNet(nn.Module):
    """Three blocks of [BatchNorm,] 3x3 convolution, ReLU and average pooling; channels double."""

    def __init__(self, width: int, num_classes: int, image_size: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=3), nn.ReLU(), nn.AvgPool2d(2)]
        for block in (1, 2):
            before, after = width * 2 ** (block - 1), width * 2**block
            layers += [
                nn.BatchNorm2d(before, momentum=0.9),
                nn.Conv2d(before, after, 3, padding=1),
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(4 * width * ((image_size + 4) // 8) ** 2, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of grey images."""
        return self.classifier(self.features(x).flatten(1))


def augment_alike(images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """One operation of DSA with the same parameters on all batches."""
    name = OPERATIONS[int(torch.randint(len(OPERATIONS), ()))]
    size = images[0].shape[2]
    draw = torch.rand(4).tolist()
    if name == "color":  # of a grey image
        made = [x + draw[0] - 0.5 for x in images]
        means = [x.mean((1, 2, 3), keepdim=True) for x in made]
        return [m + (draw[1] + 0.5) * (x - m) for m, x in zip(means, made, strict=True)]
    if name == "crop":
        margin = int(size * 0.125 + 0.5)
        down, right = (int(d * (2 * margin + 1)) for d in draw[:2])
        padded = [functional.pad(x, (margin,) * 4) for x in images]
        return [x[:, :, down : down + size, right : right + size] for x in padded]
    if name == "cutout":
        mask = torch.ones(size, size, device=images[0].device)
        top, left = (int(d * (size + 1)) - size // 4 for d in draw[:2])
        mask[max(top, 0) : max(top + size // 2, 0), max(left, 0) : max(left + size // 2, 0)] = 0
        return [x * mask for x in images]
    if name == "flip":
        return [x.flip(3) if draw[0] < 0.5 else x for x in images]
    if name == "scale":
        theta = torch.diag(torch.tensor([1 / 1.2 + (1.2 - 1 / 1.2) * d for d in draw[:2]]))
    else:
        angle = torch.deg2rad(torch.tensor(30 * draw[0] - 15))
        cosine, sine = torch.cos(angle), torch.sin(angle)
        theta = torch.stack([torch.stack([cosine, -sine]), torch.stack([sine, cosine])])
    theta = functional.pad(theta, (0, 1)).to(images[0].device)
    made = []
    for x in images:
        grid = functional.affine_grid(theta.expand(len(x), 2, 3), list(x.shape), False)
        made.append(functional.grid_sample(x, grid, "bilinear", "zeros", False))
    return made


def dsa_step(
    network: nn.Module, real: torch.Tensor, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance of gradients, class by class, as the released code goes through them.

    Args:
      network: without BatchNorm.
      real: [classes, B, C, S, S].
      images: learned ones, [N, C, S, S], class by class.
    """
    images = images.detach().requires_grad_()
    params, classes = list(network.parameters()), len(real)
    own, total = images.view(classes, -1, *images.shape[1:]), images.new_zeros(())
    for c in range(classes):
        pair = augment_alike([real[c], own[c]])
        labels = [torch.full((len(x),), c, device=x.device) for x in pair]
        losses = [
            functional.cross_entropy(network(x), y) for x, y in zip(pair, labels, strict=True)
        ]
        wanted = [g.detach() for g in torch.autograd.grad(losses[0], params)]
        found = torch.autograd.grad(losses[1], params, create_graph=True)
        for a, b in zip(wanted, found, strict=True):
            if a.ndim > 1:
                a, b = a.flatten(1), b.flatten(1)
                total = total + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
    return total.detach(), torch.autograd.grad(total, images)[0]


def frepo_step(
    network: WideConvNet, real: torch.Tensor, targets: torch.Tensor, learned: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
    """Error of a kernel ridge regression, less the labels' margin.

    Args:
      network: in eval mode.
      real: [B, C, S, S].
      targets: centred, [B, classes].
      learned: images [n, C, S, S] and labels [n, classes].
    """
    images, labels = (x.detach().requires_grad_() for x in learned)
    with torch.no_grad():
        asked = network.features(real).flatten(1)
    features = network.features(images).flatten(1)
    kernel = features @ features.T
    eye = torch.eye(len(kernel), device=kernel.device)
    factor = torch.linalg.cholesky(kernel + RIDGE * kernel.trace() / len(kernel) * eye)
    found = (asked @ features.T) @ torch.cholesky_solve(labels, factor)
    first, second = labels.topk(2, dim=1).values.T
    margin = (first - second).clamp(max=1 / labels.shape[1]).mean()
    loss = 0.5 * ((found - targets) ** 2).sum(1).mean() - margin
    return loss.detach(), torch.autograd.grad(loss, [images, labels])


def network_step(
    network: nn.Module, optimiser: torch.optim.Optimizer, learned: Sequence[torch.Tensor]
) -> None:
    """One step of FRePo's network on all learned images, BatchNorm in train mode."""
    images, labels = learned
    network.train()
    optimiser.zero_grad()
    (0.5 * ((network(images) - labels) ** 2).sum(1).mean()).backward()
    optimiser.step()
    network.eval()
