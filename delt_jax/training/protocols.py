"""Evaluation protocols: named, complete recipes of how students train.

The same images score 21.3, 31.1 or 41.9 % under three recipes of the field, so a number means
something only beside its protocol. A protocol depends on architecture, number of classes, images
per class and image size. Settings of `evaluate` and `relabel` that are not None replace its values,
and are then printed beside its name.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from delt_jax.augment import dsa
from delt_jax.augment.views import ViewSpec
from delt_jax.core import plugins
from delt_jax.errors import UserError
from delt_jax.labels.label_store import LabelPlan
from delt_jax.recipe import Recipe

_MANY_CLASSES = 100  # RDED and DELT double their batches from so many classes on
_LARGE = 128  # RDED shuffles patches of images from so many pixels a side on
MOMENTUM = 0.9  # of SGD, in all protocols that use it


@dataclass(frozen=True)
class EvalSetting:
    """Who is trained on what: everything that a protocol may depend on.

    Attributes:
      student: name of the architecture.
      num_classes: of the data.
      ipc: images per class that the student is trained on.
      image_size: side in pixels.
    """

    student: str
    num_classes: int
    ipc: int
    image_size: int


@dataclass(frozen=True)
class Protocol:
    """Everything about how a student trains.

    Attributes:
      name: which protocol this is, or was before settings changed it.
      views: augmentation of the images.
      temperature: T, by which logits of teachers and student are divided.
      loss: loss on soft labels: "kl" (mean over the batch, without the factor T^2) or "mse" of
        logits.
      hard_weight: weight of an added cross-entropy with the image's own class.
      learning_rate: peak, of AdamW(0.9, 0.999) or SGD.
      weight_decay: decay of weights with more than one axis; biases and norms do not decay. SGD
        adds it to the gradients of all parameters, as torch does.
      schedule: "half_cosine" (ends at half the peak), "cosine" (ends at zero), "step" (a tenth from
        the middle on) or "two_steps" (a fifth from 2/3 on, again from 5/6), constant within an
        epoch.
      epochs: length of the training.
      batch_size: at most the size of the set. Images are mixed within groups of this size.
      accumulate: number of batches per gradient step.
      ema: decay of averaged weights, which are then the ones that are scored; 0 scores the last.
      eval_every: epochs between evaluations on the test set.
      optimiser: "adamw", or "sgd" with a momentum of `MOMENTUM`.
      changed: settings that differ from the named protocol, e.g. "epochs 150".
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
    optimiser: str = "adamw"

    def as_dict(self) -> dict[str, Any]:
        """The values under the names that are hashed into ids of scores; these never change.

        The optimiser came later, and is there only where it is not AdamW.
        """
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
        } | ({} if self.optimiser == "adamw" else {"optimiser": self.optimiser})

    def text(self) -> str:
        """The protocol in one line, which is printed beside every number."""
        parts = [
            f"{self.epochs} epochs",
            f"batch {self.batch_size}" + (f" x {self.accumulate}" if self.accumulate > 1 else ""),
            f"{_OPTIMISERS[self.optimiser]} {self.learning_rate:g} {_ENDS[self.schedule]}",
            f"decay {self.weight_decay:g}",
            *_views_in_words(self.views),
            f"{self.loss.upper()} of soft labels at T {self.temperature:g}",
        ]
        if self.hard_weight:
            parts.append(f"{self.hard_weight:g} x cross-entropy")
        if self.ema:
            parts.append(f"weights averaged at {self.ema:g}")
        name = self.name + (f" with {', '.join(self.changed)}" if self.changed else "")
        return f"{name}: {', '.join(parts)}"


_OPTIMISERS = {"adamw": "AdamW", "sgd": "SGD"}
_ENDS = {
    "half_cosine": "to half its peak",
    "cosine": "to zero",
    "step": "and a tenth of it from the middle on",
    "two_steps": "and a fifth of it from 2/3 and again from 5/6 on",
}


def _views_in_words(views: ViewSpec) -> list[str]:
    """The augmentation, one phrase for each of its parts."""
    words = [views.rand_augment] if views.rand_augment else []
    if views.shuffle > 1:
        words.append(f"{views.shuffle} x {views.shuffle} patches shuffled")
    if not views.dsa or views.min_scale < 1:
        words.append(f"crops {views.min_scale:g}-1")
    if views.dsa:  # which has its own flips
        words.append(f"DSA {dsa.parse(views.dsa, views.flip)}")
    else:
        words.append("flips" if views.flip else "no flips")
    if views.mix == "none":
        return [*words, "no mixing"]
    share = f" of {views.mix_probability:g} of the batches" if views.mix_probability < 1 else ""
    return [*words, f"{views.mix} {views.mix_alpha:g}{share}"]


# Peak learning rates of RDED and DELT by the first letters of the student's name; else 1e-3.
_RATES = {
    "efficientnet_b0": 2e-3,
    "mobilenet_v2": 2.5e-3,
    "vgg11": 5e-4,
    "alexnet": 1e-4,
    "vit": 1e-4,
    "swin": 1e-4,
}


def _delt_rate(setting: EvalSetting) -> float:
    if _is_conv3_of_cifar100(setting):
        return 2e-3
    rates = (rate for name, rate in _RATES.items() if _is_a(setting, name))
    return next(rates, 1e-3)


def _is_a(setting: EvalSetting, family: str) -> bool:
    """Whether the student is one of ours whose name begins so."""
    return setting.student.startswith(family) and not plugins.is_path(setting.student)


def _delt_batch(setting: EvalSetting) -> int:
    """DELT publishes batch sizes for IPC 1, 10, 20 and from 30 on; those between are ours."""
    if _is_conv3_of_cifar100(setting):
        return 25
    if setting.num_classes == 200:  # Tiny-ImageNet
        return 100
    batch = 100 if setting.ipc >= 30 else min(50, 10 * setting.ipc)
    return 2 * batch if setting.num_classes >= _MANY_CLASSES else batch


def _is_conv3_of_cifar100(setting: EvalSetting) -> bool:
    return (setting.student, setting.num_classes, setting.image_size) == ("conv3", 100, 32)


def _delt(setting: EvalSetting) -> Protocol:
    """The protocol of DELT (arXiv 2411.19946 and its code)."""
    return Protocol(
        name="delt",
        views=ViewSpec("rand-m6-n2-mstd1.0", 1, 0.25, True, "cutmix", 1.0),
        temperature=20.0,
        loss="kl",
        hard_weight=0.0,
        learning_rate=_delt_rate(setting),
        weight_decay=0.01,
        schedule="half_cosine",
        epochs=300,
        batch_size=_delt_batch(setting),
        accumulate=1,
        ema=0.0,
        eval_every=10,
    )


def _rded(setting: EvalSetting) -> Protocol:
    """The protocol of RDED (arXiv 2312.03526 and its code), evaluated as often as DELT."""
    factor = 2 if setting.image_size >= _LARGE else 1
    views = ViewSpec("", factor, 1 / factor, True, "cutmix", 1.0)
    return replace(_delt(setting), name="rded", views=views)


def _sre2l(setting: EvalSetting) -> Protocol:
    """The protocol of SRe2L for ImageNet-1K (arXiv 2306.13092 and its code)."""
    return replace(
        _delt(setting),
        name="sre2l",
        views=ViewSpec("", 1, 0.08, True, "cutmix", 1.0),
        learning_rate=1e-3,
        schedule="cosine",
        batch_size=1024,
    )


def _delt_jax(setting: EvalSetting) -> Protocol:
    """Our protocol: DELT's with crops of at least half the area; ConvNets learn four times as fast.

    Both were chosen on validation images of Fashion-MNIST, with ConvNet-3 alone (see
    docs/evaluation.md).
    """
    delt = _delt(setting)
    rate = 4 * delt.learning_rate if _is_a(setting, "conv") else delt.learning_rate
    views = replace(delt.views, min_scale=0.5)
    return replace(delt, name="delt_jax", views=views, learning_rate=rate)


def _common(setting: EvalSetting) -> Protocol:
    """One protocol for all decoupled methods, after RD3 (arXiv 2509.19743), known at second hand.

    Neither the paper's settings nor its code could be read. Notes of others on it agree on KL with
    the labels of one ResNet-18, 400 epochs, batches of 50, Adam at 1e-3 with a cosine to zero for
    a ResNet-18 and to half its peak for other students, and RDED's crops, flips and CutMix. Where
    they are silent we chose: no decay, RDED's T of 20, no shuffled patches.
    """
    rded = _rded(setting)
    return replace(
        rded,
        name="common",
        views=replace(rded.views, shuffle=1),
        learning_rate=1e-3,
        weight_decay=0.0,
        schedule="cosine" if _is_a(setting, "resnet18") else "half_cosine",
        epochs=400,
        batch_size=50,
    )


def _dsa(setting: EvalSetting) -> Protocol:
    """Students of hard labels in DC, DSA and DM (arXiv 2006.05929, 2102.08259, 2110.04181).

    As the released code trains them with DSA: 1000 epochs and the one more that its loop makes,
    tested after the last. It starts the velocity anew where the rate drops; here it goes on.
    """
    del setting
    operations = "color_crop_cutout_flip_scale_rotate"
    return Protocol(
        name="dsa",
        views=ViewSpec("", 1, 1.0, True, "none", 1.0, dsa=f"one-{operations}"),
        temperature=1.0,
        loss="kl",
        hard_weight=0.0,
        learning_rate=0.01,
        weight_decay=5e-4,
        schedule="step",
        epochs=1001,
        batch_size=256,
        accumulate=1,
        ema=0.0,
        eval_every=1001,
        optimiser="sgd",
    )


def _idc(setting: EvalSetting) -> Protocol:
    """Students of hard labels in IDC (arXiv 2205.14959 and its code), at up to 64 pixels.

    CutMix takes the place of cut-outs, as there. Its exceptions are left to settings.
    """
    views = ViewSpec(
        *("", 1, 1.0, True, "cutmix", 1.0),
        dsa="idc-color_crop_flip_scale_rotate",
        mix_probability=0.5,
    )
    return replace(
        _dsa(setting),
        name="idc",
        views=views,
        schedule="two_steps",
        epochs=1000,
        batch_size=64,
        eval_every=250,
    )


_PROTOCOLS: dict[str, Callable[[EvalSetting], Protocol]] = {
    "delt": _delt,
    "sre2l": _sre2l,
    "rded": _rded,
    "delt_jax": _delt_jax,
    "common": _common,
    "dsa": _dsa,
    "idc": _idc,
}
NAMES = tuple(_PROTOCOLS)
_KNOWN = {"loss": ("kl", "mse"), "schedule": tuple(_ENDS), "optimiser": tuple(_OPTIMISERS)}
# A protocol that comes to train otherwise gets a new version here; the others have version 1.
_VERSIONS: dict[str, int] = {}


def version(name: str) -> int:
    """Version of a protocol, part of the identity of its scores."""
    if name in _PROTOCOLS:
        return _VERSIONS.get(name, 1)
    return plugins.version(plugins.PROTOCOLS, name)


def named(name: str, setting: EvalSetting) -> Protocol:
    """The protocol of a name, our own or a plug-in, for who is trained on what.

    Raises:
      UserError: if there is none, or a plug-in returns something else.
    """
    protocol_of = plugins.find(plugins.PROTOCOLS, name, _PROTOCOLS)
    if name in _PROTOCOLS:
        return protocol_of(setting)
    plugged = plugins.call(plugins.PROTOCOLS, name, protocol_of, setting)
    what = "a function that returns a delt_jax.training.protocols.Protocol"
    plugins.checked(plugins.PROTOCOLS, name, plugged, Protocol, what)
    for field, known in _KNOWN.items():
        if (has := getattr(plugged, field)) not in known:
            listed = ", ".join(known)
            raise UserError(f"The protocol {name!r} has {field} {has!r}, not one of {listed}.")
    return replace(plugged, name=name)


def resolve(recipe: Recipe, setting: EvalSetting, learning_rate: float | None = None) -> Protocol:
    """The protocol that a recipe names, with the recipe's own settings put into it.

    Args:
      recipe: complete (see `delt_jax.config.derive`).
      setting: who is trained on what.
      learning_rate: one of `evaluate.learning_rates`, or None for the protocol's.
    """
    plain = named(recipe.evaluate.protocol, setting)
    asked = {
        name: value
        for group in (recipe.relabel, recipe.evaluate)
        for name, value in asdict(group).items()
        if value is not None
    }
    asked["learning_rate"] = learning_rate or plain.learning_rate
    views = replace(plain.views, **_of(ViewSpec, asked) | {"flip": recipe.data.flip})
    resolved = replace(plain, **_of(Protocol, asked), views=views)
    differ = [
        f"{name.replace('_', ' ')} {value or 'none'}"
        for before, after in ((plain, resolved), (plain.views, resolved.views))
        for name, value in asdict(after).items()
        if name not in ("views", "flip", "changed") and value != getattr(before, name)
    ]
    batch = min(resolved.batch_size, setting.num_classes * setting.ipc)
    return replace(resolved, batch_size=batch, changed=tuple(differ))


def label_plan(recipe: Recipe, setting: EvalSetting) -> LabelPlan:
    """Which views get stored labels: those that the recipe's protocol trains on.

    Args:
      recipe: complete (see `delt_jax.config.derive`).
      setting: that of the first student; the others learn from the same labels.
    """
    protocol, asked = resolve(recipe, setting), recipe.relabel
    return LabelPlan(
        seed=recipe.seed,
        epochs=asked.stored_epochs or protocol.epochs,
        num_images=setting.num_classes * setting.ipc,
        num_classes=setting.num_classes,
        form=asked.form,
        top_k=asked.top_k if asked.top_k < setting.num_classes else 0,
        temperature=protocol.temperature,
        views=protocol.views,
        group_size=protocol.batch_size,
        trained_epochs=protocol.epochs,
    )


def _of(kind: type, settings: dict) -> dict:
    """Those of the settings that are fields of a dataclass."""
    names = {f.name for f in fields(kind)}
    return {name: value for name, value in settings.items() if name in names}
