"""Replays the recordings in PyTorch and in delt_jax, in float32 and in float64.

python benchmarks/fidelity.py          prints the deviations between all of them
python benchmarks/fidelity.py --plot   also draws docs/drift.png

Needs the `torch` extra. Where two right float32 programs may differ because rounding tips a
ReLU or the sign of a vanishing gradient, float64 says whether the formulas agree.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch_models
from torch import nn
from torch.nn import functional

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
os.environ["JAX_PLATFORMS"] = "cpu"

import replays
from conftest import golden_dir

from delt_jax.models import torch_files, torch_weights


def network(recorded: replays.Network, dtype: torch.dtype) -> nn.Module:
    """A recorded network."""
    spec = recorded.spec
    net = torch_models.create(spec.name, spec.num_classes, spec.image_size)
    return torch_models.load(net, recorded.state).to(dtype)


def bn_terms_of(net: nn.Module, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """BN matching, layer by layer, on the inputs that the hooks below have recorded."""
    layers = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    terms = []
    for layer, x in zip(layers, inputs, strict=True):
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        terms.append(
            torch.linalg.norm(layer.running_var - variance)
            + torch.linalg.norm(layer.running_mean - mean)
        )
    return terms


def recover(recording: replays.Recording, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Recovers in PyTorch; returns the losses of the steps, and images after them."""
    record, arrays = recording
    net = network(replays.case_of(recording).teacher, dtype).eval()
    net.requires_grad_(False)
    inputs: list[torch.Tensor] = []
    for module in net.modules():  # defined in the order in which they run
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _, args, __: inputs.append(args[0]))
    labels = torch.tensor(arrays["labels"]).long()
    images = torch.tensor(arrays["init"]).to(dtype)
    mean, std = (torch.tensor(record[k], dtype=dtype).view(3, 1, 1) for k in ("mean", "std"))
    low, high = -mean / std, (1 - mean) / std
    size = images.shape[-1]
    mu, nu = torch.zeros_like(images), torch.zeros_like(images)
    batch = replays.schedule_of(recording)
    order = np.array(batch.indices)
    active_at = [order[list(r.active)] for r in batch.rounds for _ in range(r.iterations)]
    losses = []
    for t, (step, active) in enumerate(zip(record["steps"], active_at, strict=True), 1):
        x = images[active].clone().requires_grad_(True)
        top, left, height, width = step["crop"]
        view = x[:, :, top : top + height, left : left + width]
        if (height, width) != (size, size):
            view = functional.interpolate(
                view, (size, size), mode="bilinear", antialias=step["antialias"]
            )
        view = view.flip(-1) if step["flip"] else view
        view = view.roll(step["roll"], (2, 3))
        inputs.clear()
        loss = functional.cross_entropy(net(view), labels[active])
        terms = bn_terms_of(net, inputs)
        weighted = record["first_bn_multiplier"] * terms[0] + sum(terms[1:])
        loss = loss + record["bn_weight"] * weighted
        (grad,) = torch.autograd.grad(loss, x)
        losses.append(loss.item())
        mu[active] = 0.5 * mu[active] + 0.5 * grad
        nu[active] = 0.9 * nu[active] + 0.1 * grad**2
        scale = (nu[active] / (1 - 0.9**t)).sqrt() + 1e-8
        moved = x.detach() - step["learning_rate"] * mu[active] / (1 - 0.5**t) / scale
        images[active] = torch.minimum(torch.maximum(moved, low), high)
    return np.array(losses), replays.nhwc(images.numpy())


def train(recording: replays.Recording, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Trains in PyTorch; returns the losses of every step, and final logits in eval mode."""
    record, arrays = recording
    student, teacher = (network(one, dtype) for one in replays.student_and_teacher(recording))
    student.train()
    teacher.eval()
    images = torch.tensor(arrays["images"]).to(dtype)
    decayed = [p for p in student.parameters() if p.ndim > 1]
    others = [p for p in student.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": record["weight_decay"]},
            {"params": others, "weight_decay": 0.0},
        ]
    )
    temperature = record["temperature"]
    losses = []
    for step in record["steps"]:
        partner = images[step["permutation"]]
        if record["mix"] == "cutmix":
            rows, columns = slice(*step["box_rows"]), slice(*step["box_columns"])
            mixed = images.clone()
            mixed[:, :, rows, columns] = partner[:, :, rows, columns]
        else:
            mixed = step["lambda"] * images + (1 - step["lambda"]) * partner
        with torch.no_grad():
            targets = functional.softmax(teacher(mixed) / temperature, dim=1)
        predicted = functional.log_softmax(student(mixed) / temperature, dim=1)
        loss = functional.kl_div(predicted, targets, reduction="batchmean")
        for group in optimiser.param_groups:
            group["lr"] = step["learning_rate"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    with torch.no_grad():
        return np.array(losses), student.eval()(images).numpy()


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """Largest deviation relative to b."""
    return float(np.max(np.abs(a - b) / np.abs(b)))


def to_the_largest(a: np.ndarray, b: np.ndarray) -> float:
    """Largest deviation relative to the largest of b."""
    return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


def compare(name: str, runs: dict[str, tuple[np.ndarray, np.ndarray]], ends) -> None:
    """Prints the deviations of losses and ends between the runs."""
    pairs = [("torch32", "recorded"), ("torch64", "recorded"), ("ours32", "recorded")]
    pairs += [("ours64", "recorded"), ("ours64", "torch64")]
    for a, b in pairs:
        (loss_a, end_a), (loss_b, end_b) = runs[a], runs[b]
        print(
            f"| {name} | {a} - {b} | {relative(loss_a, loss_b):.1e} | {ends(end_a, end_b):.1e} |",
            flush=True,
        )


def compare_recovery(path: Path) -> None:
    """Prints one recorded recovery's deviations, over the classes with the whole budget."""
    recording = replays.read(path)
    case = replays.case_of(recording)
    full = replays.budgets(recording) == recording.record["iterations"]
    recorded = np.array([step["loss"] for step in recording.record["steps"]])
    runs = {"recorded": (recorded, replays.final_images(recording)[full])}
    for bits, dtype in (("32", torch.float32), ("64", torch.float64)):
        losses, images = recover(recording, dtype)
        runs[f"torch{bits}"] = losses, images[full]
        ours = replays.recover(case, f"float{bits}")
        losses = np.array([step.losses.loss for step in ours])
        runs[f"ours{bits}"] = losses, ours[-1].images[full]
    compare(path.stem, runs, lambda a, b: float(np.abs(a - b).max()))


def compare_training(path: Path) -> None:
    """Prints one recorded training's deviations."""
    recording = replays.read(path)
    networks = replays.student_and_teacher(recording)
    recorded = np.array([step["loss"] for step in recording.record["steps"]])
    runs = {"recorded": (recorded, recording.arrays["final_eval_logits"])}
    for bits, dtype in (("32", torch.float32), ("64", torch.float64)):
        runs[f"torch{bits}"] = train(recording, dtype)
        ours = replays.train(recording, networks, f"float{bits}")
        runs[f"ours{bits}"] = ours.losses, ours.logits
    compare(path.stem, runs, to_the_largest)


def compare_exports() -> None:
    """Writes networks of ours as safetensors, loads them in PyTorch, and compares logits."""
    for arch in ("conv3", "resnet18_modified"):
        recorded = replays.network(arch, replays.state_dict(arch, 5), np.zeros((1, 3, 32, 32)))
        model, spec, variables = recorded.model(), recorded.spec, recorded.variables()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "weights.safetensors"
            torch_files.write(file, torch_weights.to_torch(variables, spec))
            read = recorded._replace(state=torch_files.read(file))
            net = network(read, torch.float32).eval()
        images = np.random.default_rng(0).standard_normal((16, 32, 32, 3)).astype(np.float32)
        ours = np.asarray(model.apply(variables, images, train=False))
        with torch.no_grad():
            theirs = net(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
        same = (ours.argmax(1) == theirs.argmax(1)).all()
        print(f"| {arch} exported | ours32 - torch32 | - | {to_the_largest(ours, theirs):.1e} |")
        print(f"  classes {'all equal' if same else 'DIFFER'}")


def plot_drift(path: Path, target: Path) -> None:
    """Draws losses and their deviation in a recovery whose images start one group after another."""
    from matplotlib.figure import Figure

    recording = replays.read(path)
    case = replays.case_of(recording)
    recorded = np.array([step["loss"] for step in recording.record["steps"]])
    losses, exact = (
        np.array([step.losses.loss for step in replays.recover(case, dtype)])
        for dtype in ("float32", "float64")
    )
    steps = np.arange(1, len(losses) + 1)
    batch = replays.schedule_of(recording)
    joins = np.cumsum([r.iterations for r in batch.rounds])[:-1] + 0.5
    figure = Figure(figsize=(7, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(steps, recorded, "o", color="0.7", markersize=9, label="released code, recorded")
    above.plot(steps, losses, ".-", color="tab:blue", label="delt_jax")
    above.set_ylabel("loss")
    above.legend()
    below.semilogy(steps, np.abs(losses / recorded - 1), ".-", label="delt_jax, float32")
    below.semilogy(steps, np.abs(exact / recorded - 1), ".--", label="delt_jax, float64")
    below.axhline(1e-3, color="tab:red", linewidth=1, label="tolerance of the tests")
    below.set_ylabel("deviation, relative")
    below.set_xlabel("iteration")
    below.set_xticks(steps)
    below.legend()
    for axes in (above, below):
        for join in joins:
            axes.axvline(join, color="0.8", linestyle=":")
    above.set_title(f"ConvNet-3 recovery, {len(joins)} joins (dotted), {len(losses)} iterations")
    figure.savefig(target, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", action="store_true", help="draw docs/drift.png")
    chosen = parser.parse_args()
    print("| recording | deviation of | losses, relative | end |")
    print("|---|---|---|---|")
    for path in sorted((golden_dir() / "recover").glob("*.json")):
        compare_recovery(path)
    for path in sorted((golden_dir() / "train").glob("*.json")):
        compare_training(path)
    compare_exports()
    if chosen.plot:
        plot_drift(
            golden_dir() / "recover" / "dev_conv3_earlylate.json", ROOT / "docs" / "drift.png"
        )


if __name__ == "__main__":
    main()
