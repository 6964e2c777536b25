"""Recovery as one writes it in PyTorch, eager or compiled, to be timed beside ours.

Forward hooks read the BatchNorm inputs, as in the released code of SRe2L and DELT; the crop is
torchvision's, on the tensor; Adam and the clip are torch's own. Nothing waits for the device
within an iteration, weights need no gradient, and both memory layouts can be chosen.
"""

import math
import random
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery.schedule import BatchSchedule

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def prepare(threads: int) -> torch.device:
    """Sets torch as fast as it goes on this machine; the GPU if there is one."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = True
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait(device: torch.device) -> None:
    """Waits until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_box(draw: random.Random, size: int, min_scale: float) -> tuple[int, int, int, int]:
    """Top, left, height, width of torchvision's RandomResizedCrop(scale=(min_scale, 1))."""
    low, high = math.log(3 / 4), math.log(4 / 3)
    for _ in range(10):
        area = size * size * draw.uniform(min_scale, 1.0)
        ratio = math.exp(draw.uniform(low, high))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= size and 0 < height <= size:
            top, left = draw.randint(0, size - height), draw.randint(0, size - width)
            return top, left, height, width
    return 0, 0, size, size


class Recovery:
    """Recovers batches of images with one teacher.

    Args:
      network: the teacher, on its device.
      recipe: the settings; the default clock, curriculum and crop.
      bounds: the valid pixels in normalised units, lowest and highest of every channel.
      layout: a name of `LAYOUTS`.
      bfloat16: run the teacher under autocast.
      compiled: run the teacher, its hooks included, through `torch.compile`.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: RecoverRecipe,
        bounds: tuple[Sequence[float], Sequence[float]],
        layout: str,
        bfloat16: bool,
        compiled: bool = False,
    ):
        self._format = LAYOUTS[layout]
        self._network = network.eval().requires_grad_(False).to(memory_format=self._format)
        self.device = next(network.parameters()).device
        self._recipe, self._bfloat16 = recipe, bfloat16
        low, high = (torch.tensor(b, device=self.device).view(1, -1, 1, 1) for b in bounds)
        self._low, self._high = low, high
        self._draw = random.Random(0)
        self._terms: list[torch.Tensor] = []
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        self._hooks = [m.register_forward_hook(self._match) for m in norms]
        if compiled:
            self._network = torch.compile(self._network)

    def close(self) -> None:
        """Takes the hooks off the network again."""
        for hook in self._hooks:
            hook.remove()

    def _match(self, layer: nn.BatchNorm2d, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
        variance, mean = torch.var_mean(inputs[0].float(), dim=(0, 2, 3), correction=0)
        self._terms.append(
            torch.linalg.vector_norm(layer.running_var - variance)
            + torch.linalg.vector_norm(layer.running_mean - mean)
        )

    def loss(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        box: tuple[int, int, int, int],
        flip: bool,
    ) -> torch.Tensor:
        """The objective of images [B, C, S, S] seen through one crop and flip."""
        top, left, height, width = box
        size = images.shape[-1]
        view = images[:, :, top : top + height, left : left + width]
        if (height, width) != (size, size):
            view = functional.interpolate(view, (size, size), mode="bilinear", antialias=True)
        view = (view.flip(-1) if flip else view).contiguous(memory_format=self._format)
        self._terms.clear()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            logits = self._network(view)
        recipe = self._recipe
        bn = recipe.first_bn_multiplier * self._terms[0] + sum(self._terms[1:])
        return functional.cross_entropy(logits.float(), labels) + recipe.bn_weight * bn

    def run(
        self, images: torch.Tensor, labels: torch.Tensor, batch: BatchSchedule
    ) -> list[torch.Tensor]:
        """Optimises images [B, C, S, S] in joining order, and waits for them.

        Images that join together are one tensor with Adam moments of its own, so that only
        the active images are computed and earlier ones keep their moments.

        Returns:
          One tensor of images per group.
        """
        recipe, size = self._recipe, images.shape[-1]
        groups: list[torch.Tensor] = []
        optimiser = None
        step = 0
        for rnd in batch.rounds:
            joined, count = sum(len(group) for group in groups), len(rnd.active)
            group = images[joined:count].clone(memory_format=self._format).requires_grad_(True)
            groups.append(group)
            if optimiser is None:
                optimiser = torch.optim.Adam([group], lr=recipe.learning_rate, betas=(0.5, 0.9))
            else:
                optimiser.add_param_group({"params": [group]})
            for _ in range(rnd.iterations):
                cosine = 0.5 * (1 + math.cos(math.pi * step / batch.iterations))
                for part in optimiser.param_groups:
                    part["lr"] = recipe.learning_rate * cosine
                min_scale = recipe.min_scale + (1 - recipe.min_scale) * cosine
                box = random_box(self._draw, size, min_scale)
                active = torch.cat(groups) if len(groups) > 1 else groups[0]
                optimiser.zero_grad()
                self.loss(active, labels[:count], box, self._draw.random() < 0.5).backward()
                optimiser.step()
                with torch.no_grad():
                    for part in groups:
                        part.clamp_(self._low, self._high)
                step += 1
        wait(self.device)
        return groups
