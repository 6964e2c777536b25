"""Small PyTorch networks with torch's own names, written for comparisons with ours."""

import torch
from torch import nn
from torch.nn import functional


class ConvNet(nn.Module):
    """`depth` times [3x3 convolution, BN, ReLU, 2x2 average pool], then a linear layer."""

    def __init__(self, depth: int, num_classes: int, image_size: int, channels: int, width=128):
        super().__init__()
        widths = [channels] + [width] * (depth - 1)
        self.layers = nn.ModuleDict(
            {
                "conv": nn.ModuleList(nn.Conv2d(w, width, 3, padding=1) for w in widths),
                "norm": nn.ModuleList(nn.BatchNorm2d(width) for _ in widths),
            }
        )
        self.classifier = nn.Linear(width * (image_size // 2**depth) ** 2, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of [B, C, S, S]."""
        for conv, norm in zip(self.layers["conv"], self.layers["norm"], strict=True):
            x = functional.avg_pool2d(functional.relu(norm(conv(x))), 2)
        return self.classifier(x.flatten(1))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels: int, features: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, features, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.downsample = None
        if stride != 1 or channels != features:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, features, 1, stride, bias=False), nn.BatchNorm2d(features)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, C, H, W] to [B, features, H / stride, W / stride]."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """ResNet-18; with `small_stem` a 3x3 stride-1 stem without max-pool."""

    def __init__(self, num_classes: int, small_stem: bool):
        super().__init__()
        size, stride = (3, 1) if small_stem else (7, 2)
        self.conv1 = nn.Conv2d(3, 64, size, stride, size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.Identity() if small_stem else nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, features in enumerate((64, 128, 256, 512), 1):
            first = Block(channels, features, 1 if stage == 1 else 2)
            setattr(self, f"layer{stage}", nn.Sequential(first, Block(features, features, 1)))
            channels = features
        self.fc = nn.Linear(512, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of [B, 3, S, S]."""
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def create(name: str, num_classes: int, image_size: int, channels: int = 3) -> nn.Module:
    """The network of an architecture's name: conv3 to conv6, resnet18, resnet18_modified."""
    if name.startswith("conv"):
        return ConvNet(int(name.removeprefix("conv")), num_classes, image_size, channels)
    return ResNet18(num_classes, small_stem=name.endswith("_modified"))


def load(network: nn.Module, state: dict) -> nn.Module:
    """Loads a state dict of arrays strictly, but for BatchNorm's step counters."""
    tensors = {name: torch.tensor(array) for name, array in state.items()}
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    wrong = [n for n in missing if not n.endswith("num_batches_tracked")] + list(unexpected)
    if wrong:
        raise ValueError(f"these names are only on one side: {', '.join(wrong)}")
    return network
