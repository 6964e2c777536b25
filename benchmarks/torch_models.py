"""Small PyTorch networks with torch's own names, written for comparisons with ours."""

import torch
from torch import nn
from torch.nn import functional

from delt_jax.models import efficientnet


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


class SameConv(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's SAME pads images of even sides.

    Where the stride is 2 that is one row and column less before than after.
    """

    def __init__(self, channels: int, features: int, size: int, stride: int, groups: int = 1):
        before = (size - stride) // 2
        padding = before if stride == 1 else 0
        super().__init__(channels, features, size, stride, padding, groups=groups, bias=False)
        self.around = (before, size - stride - before) * 2 if stride > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, C, H, W] to [B, features, H / stride, W / stride]."""
        return super().forward(x if self.around is None else functional.pad(x, self.around))


def _lite_norm(features: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(features, eps=1e-3, momentum=0.01)


class LiteBlock(nn.Module):
    """Inverted residual without squeeze-excitation."""

    def __init__(self, channels: int, expansion: int, size: int, stride: int, features: int):
        super().__init__()
        hidden = expansion * channels
        if expansion > 1:
            self._expand_conv = SameConv(channels, hidden, 1, 1)
            self._bn0 = _lite_norm(hidden)
        self._depthwise_conv = SameConv(hidden, hidden, size, stride, groups=hidden)
        self._bn1 = _lite_norm(hidden)
        self._project_conv = SameConv(hidden, features, 1, 1)
        self._bn2 = _lite_norm(features)
        self.expands, self.skips = expansion > 1, stride == 1 and channels == features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, C, H, W] to [B, features, H / stride, W / stride]."""
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skips else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 with the names of efficientnet_lite_pytorch, for even sides, in eval mode.

    Its dropout and stochastic depth, which do nothing then, are left out.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2)
        self._bn0 = _lite_norm(32)
        self._blocks, channels = nn.ModuleList(), 32
        for _, _, shape in efficientnet.blocks(1.0):
            self._blocks.append(LiteBlock(channels, *shape[:-1]))  # the last one is of training
            channels = shape.features
        self._conv_head = SameConv(channels, 1280, 1, 1)
        self._bn1 = _lite_norm(1280)
        self._fc = nn.Linear(1280, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of [B, 3, S, S]."""
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = functional.relu6(self._bn1(self._conv_head(x)))
        return self._fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def create(name: str, num_classes: int, image_size: int, channels: int = 3) -> nn.Module:
    """The network of a name: conv3 to conv6, resnet18, resnet18_modified, efficientnet_lite0."""
    if name.startswith("conv"):
        return ConvNet(int(name.removeprefix("conv")), num_classes, image_size, channels)
    if name == "efficientnet_lite0":
        return EfficientNetLite0(num_classes)
    return ResNet18(num_classes, small_stem=name.endswith("_modified"))


def load(network: nn.Module, state: dict) -> nn.Module:
    """Loads a state dict of arrays strictly, but for BatchNorm's step counters."""
    tensors = {name: torch.tensor(array) for name, array in state.items()}
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    wrong = [n for n in missing if not n.endswith("num_batches_tracked")] + list(unexpected)
    if wrong:
        raise ValueError(f"these names are only on one side: {', '.join(wrong)}")
    return network
