"""Student training as one writes it in eager PyTorch, to be timed beside ours.

Views come from worker processes or from the device (`torch_views`); a batch is mixed by CutMix,
labelled by the teacher, and learnt from with KL at a temperature and torch's fused AdamW. Unlike in
the released code nothing waits for the device within an epoch, and workers live on between epochs.
"""

import math
import random
from collections.abc import Callable, Iterable

import torch
import torch_views
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from delt_jax.training.protocols import Protocol

_CONTEXT = "forkserver"  # JAX has threads by then, beside which a plain fork may hang


def worker_batches(
    views: torch_views.PilViews, batch: int, workers: int, device: torch.device
) -> Callable[[], Iterable[torch.Tensor]]:
    """Batches of an epoch, made by worker processes and brought to the device."""
    loader = DataLoader(
        views,
        batch,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=True,
        multiprocessing_context=_CONTEXT,
    )
    return lambda: (images.to(device, non_blocking=True) for images in loader)


def device_batches(
    views: torch_views.TensorViews, count: int, batch: int, device: torch.device
) -> Callable[[], Iterable[torch.Tensor]]:
    """Batches of an epoch of `count` images, made on the device."""

    def epoch() -> Iterable[torch.Tensor]:
        order = torch.randperm(count).to(device, non_blocking=True)
        return (views(order[start : start + batch]) for start in range(0, count, batch))

    return epoch


class Training:
    """A student that learns from what a teacher says of views.

    Args:
      student, teacher: networks, on their device.
      protocol: with KL, CutMix or no mixing, half-cosine, no accumulation or averaging.
      batches: of an epoch.
      layout: memory format.
      bfloat16: run the student under autocast.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        protocol: Protocol,
        batches: Callable[[], Iterable[torch.Tensor]],
        layout: torch.memory_format,
        bfloat16: bool,
    ):
        self._layout, self._protocol, self._batches = layout, protocol, batches
        self._student = student.to(memory_format=layout)
        self._teacher = teacher.eval().requires_grad_(False).to(memory_format=layout)
        self._device = next(student.parameters()).device
        self._bfloat16 = bfloat16
        decayed = [p for p in student.parameters() if p.ndim > 1]
        others = [p for p in student.parameters() if p.ndim <= 1]
        self._optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": protocol.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=protocol.learning_rate,
            fused=True,
        )

    def loss(self, images: torch.Tensor) -> torch.Tensor:
        """KL of the student, in train mode, on mixed views [B, C, S, S]."""
        temperature = self._protocol.temperature
        images = images.contiguous(memory_format=self._layout)
        with torch.no_grad():
            targets = functional.softmax(self._teacher(images) / temperature, dim=1)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            logits = self._student.train()(images)
        predicted = functional.log_softmax(logits.float() / temperature, dim=1)
        return functional.kl_div(predicted, targets, reduction="batchmean")

    def epoch(self, number: int) -> torch.Tensor:
        """Trains for an epoch, of which the learning rate depends on the number; its mean loss."""
        protocol = self._protocol
        angle = math.pi * number / (2 * protocol.epochs)
        for group in self._optimiser.param_groups:
            group["lr"] = protocol.learning_rate * 0.5 * (1 + math.cos(angle))
        losses = []
        for views in self._batches():
            if protocol.views.mix == "cutmix":
                views = torch_views.cutmix(views, [random.random() for _ in range(3)])
            loss = self.loss(views)
            self._optimiser.zero_grad()
            loss.backward()
            self._optimiser.step()
            losses.append(loss.detach())
        return torch.stack(losses).mean()
