"""What a protocol is: a complete recipe of how students train, and how it is said in a line."""

from dataclasses import dataclass
from typing import Any

from delt_jax.augment.frepo import StudentStrategy
from delt_jax.augment.views import ViewSpec, parse_strategy

MOMENTUM = 0.9  # of SGD, in all protocols that use it


@dataclass(frozen=True)
class EvalSetting:
    """Who is trained on what: everything that a protocol may depend on.

    Attributes:
      student: name of the architecture.
      num_classes: of the data.
      ipc: images per class that the student is trained on, copies and all.
      image_size: side in pixels.
      channels: 1 or 3.
      copies: images to train on that each stored one of a learned set becomes.
    """

    student: str
    num_classes: int
    ipc: int
    image_size: int
    channels: int = 3
    copies: int = 1


@dataclass(frozen=True)
class Protocol:
    """Everything about how a student trains.

    Attributes:
      name: which protocol this is, or was before settings changed it.
      views: augmentation of the images.
      temperature: T, by which logits of teachers and student are divided.
      loss: loss on soft labels: "kl" (mean over the batch, without the factor T^2), "mse" of
        logits, or "squared" of label values, (probability - 1 / classes) / sqrt(classes / 10), as
        FRePo has it, which hard labels then go through, too.
      hard_weight: weight of an added cross-entropy with the image's own class.
      learning_rate: peak, of AdamW(0.9, 0.999) or SGD.
      weight_decay: decay of weights with more than one axis; biases and norms do not decay. SGD
        adds it to the gradients of all parameters, as torch does.
      schedule: "half_cosine" (ends at half the peak), "cosine" (ends at zero), "step" (a tenth from
        the middle on) or "two_steps" (a fifth from 2/3 on, again from 5/6), constant within an
        epoch; "warm_cosine" (up in 500 steps, then down to a hundredth, step by step); or
        "constant".
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
            _LOSSES[self.loss].format(self.temperature),
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
    "warm_cosine": "after 500 steps of warm-up, then to a hundredth",
    "constant": "throughout",
}
_LOSSES = {
    "kl": "KL of soft labels at T {:g}",
    "mse": "MSE of soft labels at T {:g}",
    "squared": "squared error of label values",
}
KNOWN = {"loss": tuple(_LOSSES), "schedule": tuple(_ENDS), "optimiser": tuple(_OPTIMISERS)}


def _views_in_words(views: ViewSpec) -> list[str]:
    """The augmentation, one phrase for each of its parts."""
    words = [views.rand_augment] if views.rand_augment else []
    if views.shuffle > 1:
        words.append(f"{views.shuffle} x {views.shuffle} patches shuffled")
    if not views.dsa or views.min_scale < 1:
        words.append(f"crops {views.min_scale:g}-1")
    if views.dsa:  # which has its own flips
        strategy = parse_strategy(views.dsa, views.flip)
        words.append(f"{'FRePo' if isinstance(strategy, StudentStrategy) else 'DSA'} {strategy}")
    else:
        words.append("flips" if views.flip else "no flips")
    if views.mix == "none":
        return [*words, "no mixing"]
    share = f" of {views.mix_probability:g} of the batches" if views.mix_probability < 1 else ""
    return [*words, f"{views.mix} {views.mix_alpha:g}{share}"]
