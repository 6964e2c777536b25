"""The protocols of the field, each a function of who is trained on what."""

from dataclasses import replace

from delt_jax.augment.views import ViewSpec
from delt_jax.core import plugins
from delt_jax.training.protocol import EvalSetting, Protocol

_MANY_CLASSES = 100  # RDED and DELT double their batches from so many classes on
_LARGE = 128  # RDED shuffles patches of images from so many pixels a side on
# Gradient steps of FRePo by the number of images; it knows no others, which take those of the next
# larger number here.
_FREPO_STEPS = {
    10: 1000,
    100: 2000,
    200: 20000,
    400: 5000,
    500: 5000,
    1000: 10000,
    2000: 40000,
    5000: 40000,
}
_FREPO_BATCH = 500
_RCIG_BATCH = 256

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


def delt(setting: EvalSetting) -> Protocol:
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


def rded(setting: EvalSetting) -> Protocol:
    """The protocol of RDED (arXiv 2312.03526 and its code), evaluated as often as DELT."""
    factor = 2 if setting.image_size >= _LARGE else 1
    views = ViewSpec("", factor, 1 / factor, True, "cutmix", 1.0)
    return replace(delt(setting), name="rded", views=views)


def sre2l(setting: EvalSetting) -> Protocol:
    """The protocol of SRe2L for ImageNet-1K (arXiv 2306.13092 and its code)."""
    return replace(
        delt(setting),
        name="sre2l",
        views=ViewSpec("", 1, 0.08, True, "cutmix", 1.0),
        learning_rate=1e-3,
        schedule="cosine",
        batch_size=1024,
    )


def delt_jax(setting: EvalSetting) -> Protocol:
    """Our protocol: DELT's with crops of at least half the area; ConvNets learn four times as fast.

    Both were chosen on validation images of Fashion-MNIST, with ConvNet-3 alone (see
    docs/evaluation.md).
    """
    base = delt(setting)
    rate = 4 * base.learning_rate if _is_a(setting, "conv") else base.learning_rate
    views = replace(base.views, min_scale=0.5)
    return replace(base, name="delt_jax", views=views, learning_rate=rate)


def common(setting: EvalSetting) -> Protocol:
    """One protocol for all decoupled methods, after RD3 (arXiv 2509.19743), known at second hand.

    Neither the paper's settings nor its code could be read. Notes of others on it agree on KL with
    the labels of one ResNet-18, 400 epochs, batches of 50, Adam at 1e-3 with a cosine to zero for
    a ResNet-18 and to half its peak for other students, and RDED's crops, flips and CutMix. Where
    they are silent we chose: no decay, RDED's T of 20, no shuffled patches.
    """
    base = rded(setting)
    return replace(
        base,
        name="common",
        views=replace(base.views, shuffle=1),
        learning_rate=1e-3,
        weight_decay=0.0,
        schedule="cosine" if _is_a(setting, "resnet18") else "half_cosine",
        epochs=400,
        batch_size=50,
    )


def dsa(setting: EvalSetting) -> Protocol:
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


def idc(setting: EvalSetting) -> Protocol:
    """Students of hard labels in IDC (arXiv 2205.14959 and its code), at up to 64 pixels.

    CutMix takes the place of cut-outs, as there. Its exceptions are left to settings.
    """
    views = ViewSpec(
        *("", 1, 1.0, True, "cutmix", 1.0),
        dsa="idc-color_crop_flip_scale_rotate",
        mix_probability=0.5,
    )
    return replace(
        dsa(setting),
        name="idc",
        views=views,
        schedule="two_steps",
        epochs=1000,
        batch_size=64,
        eval_every=250,
    )


def frepo(setting: EvalSetting) -> Protocol:
    """Students of FRePo (arXiv 2206.00719 and its code), tested after the last step.

    Its batches go round the images in one order; here every epoch has its own. Grey images are not
    mirrored.
    """
    count = setting.num_classes * setting.ipc
    at_most = [known for known in _FREPO_STEPS if known >= count]
    steps = _FREPO_STEPS[min(at_most, default=max(_FREPO_STEPS))]
    epochs = -(-steps // -(-count // _FREPO_BATCH))
    flips = "flip_" if setting.channels == 3 else ""
    operations = f"{flips}color_crop_rotate_translate_cutout"
    return Protocol(
        name="frepo",
        views=ViewSpec("", 1, 1.0, True, "none", 1.0, dsa=f"frepo-{operations}"),
        temperature=1.0,
        loss="squared",
        hard_weight=0.0,
        learning_rate=3e-4,
        weight_decay=0.0,
        schedule="warm_cosine",
        epochs=epochs,
        batch_size=_FREPO_BATCH,
        accumulate=1,
        ema=0.0,
        eval_every=epochs,
    )


def mtt(setting: EvalSetting) -> Protocol:
    """Students of trajectory matching (arXiv 2203.11932 and its code): DSA's, at a learned rate.

    Where a set has learned its students' rate, the evaluation takes that in place of this one.
    """
    return replace(dsa(setting), name="mtt")


def ratbptt(setting: EvalSetting) -> Protocol:
    """Students of RaT-BPTT (arXiv 2311.07025 and its code): Adam, and labels as they were learned.

    There the best of 300, 600, 1000 and 3000 steps on test images is reported; here the last of
    1000.
    """
    epochs = 1000
    return replace(
        dsa(setting),
        name="ratbptt",
        views=ViewSpec("", 1, 1.0, True, "none", 1.0, dsa="one-flip_rotate"),
        learning_rate=1e-3,
        weight_decay=0.0,
        schedule="constant",
        epochs=epochs,
        batch_size=setting.num_classes * setting.ipc,
        eval_every=epochs,
        optimiser="adamw",
    )


def rcig(setting: EvalSetting) -> Protocol:
    """Students of RCIG (arXiv 2302.06755 and its code), those with augmentation.

    FRePo's at a third of the rate, and every image draws its own operation, without colours for
    grey ones. 1000 steps for ten stored images, else 2000; all images at once up to 256 stored
    ones, else batches of 256, which are drawn anew for every step there and by epochs here.
    """
    count = setting.num_classes * setting.ipc
    stored = count // setting.copies
    steps = 1000 if stored <= 10 else 2000
    batch = count if stored <= _RCIG_BATCH else _RCIG_BATCH
    epochs = -(-steps // -(-count // batch))
    in_colour = "flip_color_" if setting.channels == 3 else ""
    strategy = f"rcig-{in_colour}crop_rotate_translate_cutout"
    return replace(
        frepo(setting),
        name="rcig",
        views=ViewSpec("", 1, 1.0, True, "none", 1.0, dsa=strategy),
        learning_rate=1e-4,
        epochs=epochs,
        batch_size=batch,
        eval_every=epochs,
    )
