"""Evaluation protocols: complete recipes of how students train, each by its name.

The same images score 21.3, 31.1 or 41.9 % under three recipes of the field, so a number means
something only beside its protocol. A protocol depends on architecture, classes, images per class
and image size; settings of `evaluate` and `relabel` that are not None replace its values, and then
stand beside its name.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from delt_jax.augment.views import ViewSpec
from delt_jax.labels.label_store import LabelPlan
from delt_jax.recipe import Recipe

_MANY_CLASSES = 100  # from which on RDED and DELT double their batches
_LARGE = 128  # px from which on RDED shuffles patches


@dataclass(frozen=True)
class EvalSetting:
    """What is trained on what: all that a protocol may depend on."""

    student: str
    num_classes: int
    ipc: int
    image_size: int


@dataclass(frozen=True)
class Protocol:
    """How a student trains, complete.

    Attributes:
      name: of the protocol that it is, or was changed from.
      views: augmentation.
      temperature: T of soft labels and student.
      loss: of soft labels, "kl" (batch mean, no T^2) or "mse" of logits.
      hard_weight: of a cross-entropy with the image's own class.
      learning_rate: peak, of AdamW(0.9, 0.999).
      weight_decay: of weights with more than one axis.
      schedule: "half_cosine" (to half the peak) or "cosine" (to zero), by epoch.
      epochs: all of them are trained.
      batch_size: at most the size of the set; also of the groups that are mixed.
      accumulate: batches per gradient step.
      ema: decay of averaged weights, which are then measured; 0: the last ones are.
      eval_every: epochs between looks at the test set.
      changed: settings that differ from the named protocol, as "epochs 150".
    """

    name: str
    views: ViewSpec
    temperature: float
    loss: str
    hard_weight: float
    learning_rate: float
    weight_decay: float
    schedule: str
    epochs: int
    batch_size: int
    accumulate: int
    ema: float
    eval_every: int
    changed: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The values under the names that identities have."""
        return {
            "name": self.name,
            "views": self.views.as_dict(),
            "temperature": self.temperature,
            "loss": self.loss,
            "hard_weight": self.hard_weight,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "schedule": self.schedule,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "accumulate": self.accumulate,
            "ema": self.ema,
            "eval_every": self.eval_every,
            "changed": self.changed,
        }

    def text(self) -> str:
        """The protocol in one line, to be printed beside every number."""
        v = self.views
        mix = "no mixing" if v.mix == "none" else f"{v.mix} {v.mix_alpha:g}"
        views = [f"crops {v.min_scale:g}-1", "flips" if v.flip else "no flips", mix]
        if v.shuffle > 1:
            views.insert(0, f"{v.shuffle} x {v.shuffle} patches shuffled")
        if v.rand_augment:
            views.insert(0, v.rand_augment)
        ends = "half its peak" if self.schedule == "half_cosine" else "zero"
        parts = [
            f"{self.epochs} epochs",
            f"batch {self.batch_size}" + (f" x {self.accumulate}" if self.accumulate > 1 else ""),
            f"AdamW {self.learning_rate:g} to {ends}",
            f"decay {self.weight_decay:g}",
            *views,
            f"{self.loss.upper()} of soft labels at T {self.temperature:g}",
        ]
        if self.hard_weight:
            parts.append(f"{self.hard_weight:g} x cross-entropy")
        if self.ema:
            parts.append(f"weights averaged at {self.ema:g}")
        name = self.name + (f" with {', '.join(self.changed)}" if self.changed else "")
        return f"{name}: {', '.join(parts)}"


# Peak learning rates of RDED and DELT by the beginning of the student's name; others take 1e-3.
_RATES = {
    "efficientnet_b0": 2e-3,
    "mobilenet_v2": 2.5e-3,
    "vgg11": 5e-4,
    "alexnet": 1e-4,
    "vit": 1e-4,
    "swin": 1e-4,
}


def _delt_rate(trial: EvalSetting) -> float:
    if _is_conv3_of_cifar100(trial):
        return 2e-3
    rates = (rate for name, rate in _RATES.items() if trial.student.startswith(name))
    return next(rates, 1e-3)


def _delt_batch(trial: EvalSetting) -> int:
    """Published for IPC 1, 10, 20 and from 30 on; between them ours."""
    if _is_conv3_of_cifar100(trial):
        return 25
    if trial.num_classes == 200:  # Tiny-ImageNet
        return 100
    batch = 100 if trial.ipc >= 30 else min(50, 10 * trial.ipc)
    return 2 * batch if trial.num_classes >= _MANY_CLASSES else batch


def _is_conv3_of_cifar100(trial: EvalSetting) -> bool:
    return (trial.student, trial.num_classes, trial.image_size) == ("conv3", 100, 32)


def _delt(trial: EvalSetting) -> Protocol:
    """DELT's (arXiv 2411.19946 and its code)."""
    return Protocol(
        name="delt",
        views=ViewSpec("rand-m6-n2-mstd1.0", 1, 0.25, True, "cutmix", 1.0),
        temperature=20.0,
        loss="kl",
        hard_weight=0.0,
        learning_rate=_delt_rate(trial),
        weight_decay=0.01,
        schedule="half_cosine",
        epochs=300,
        batch_size=_delt_batch(trial),
        accumulate=1,
        ema=0.0,
        eval_every=10,
    )


def _rded(trial: EvalSetting) -> Protocol:
    """RDED's (arXiv 2312.03526 and its code), looking at the test set as often as DELT."""
    factor = 2 if trial.image_size >= _LARGE else 1
    views = ViewSpec("", factor, 1 / factor, True, "cutmix", 1.0)
    return replace(_delt(trial), name="rded", views=views)


def _sre2l(trial: EvalSetting) -> Protocol:
    """SRe2L's for ImageNet-1K (arXiv 2306.13092 and its code)."""
    return replace(
        _delt(trial),
        name="sre2l",
        views=ViewSpec("", 1, 0.08, True, "cutmix", 1.0),
        learning_rate=1e-3,
        schedule="cosine",
        batch_size=1024,
    )


def _delt_jax(trial: EvalSetting) -> Protocol:
    """Ours: DELT's with crops of half the area and more, and for ConvNets four times its rate.

    Chosen on validation images of Fashion-MNIST, with ConvNet-3 alone (see docs/evaluation.md).
    """
    delt = _delt(trial)
    rate = 4 * delt.learning_rate if trial.student.startswith("conv") else delt.learning_rate
    views = replace(delt.views, min_scale=0.5)
    return replace(delt, name="delt_jax", views=views, learning_rate=rate)


_PROTOCOLS: dict[str, Callable[[EvalSetting], Protocol]] = {
    "delt": _delt,
    "sre2l": _sre2l,
    "rded": _rded,
    "delt_jax": _delt_jax,
}
NAMES = tuple(_PROTOCOLS)
_VERSIONS: dict[str, int] = {}  # of protocols that train otherwise than before; the others have 1


def version(name: str) -> int:
    """Version of a protocol, part of the identity of its scores."""
    return _VERSIONS.get(name, 1)


def settle(recipe: Recipe, trial: EvalSetting, learning_rate: float | None = None) -> Protocol:
    """The protocol of a recipe for a trial, with the recipe's own values in it.

    Args:
      recipe: complete (see `delt_jax.config.derive`).
      trial: what is trained on what.
      learning_rate: one of evaluate.learning_rates, or None for the protocol's.
    """
    named = _PROTOCOLS[recipe.evaluate.protocol](trial)
    asked = {
        name: value
        for group in (recipe.relabel, recipe.evaluate)
        for name, value in asdict(group).items()
        if value is not None
    }
    asked["learning_rate"] = learning_rate or named.learning_rate
    views = replace(named.views, **_of(ViewSpec, asked) | {"flip": recipe.data.flip})
    settled = replace(named, **_of(Protocol, asked), views=views)
    differ = [
        f"{name.replace('_', ' ')} {value or 'none'}"
        for before, after in ((named, settled), (named.views, settled.views))
        for name, value in asdict(after).items()
        if name not in ("views", "flip", "changed") and value != getattr(before, name)
    ]
    batch = min(settled.batch_size, trial.num_classes * trial.ipc)
    return replace(settled, batch_size=batch, changed=tuple(differ))


def label_plan(recipe: Recipe, trial: EvalSetting) -> LabelPlan:
    """The stored labels of a recipe: of the views that the protocol of a trial learns from.

    Args:
      recipe: complete.
      trial: of the first student; the others learn from the same labels.
    """
    settled, asked = settle(recipe, trial), recipe.relabel
    return LabelPlan(
        seed=recipe.seed,
        epochs=asked.stored_epochs or settled.epochs,
        images=trial.num_classes * trial.ipc,
        num_classes=trial.num_classes,
        form=asked.form,
        top_k=asked.top_k if asked.top_k < trial.num_classes else 0,
        temperature=settled.temperature,
        views=settled.views,
        group_size=settled.batch_size,
        trained_epochs=settled.epochs,
    )


def _of(kind: type, settings: dict) -> dict:
    """Those settings that are fields of a dataclass."""
    names = {f.name for f in fields(kind)}
    return {name: value for name, value in settings.items() if name in names}
