"""Weights under timm's names give the very variables that torchvision's names give."""

import hashlib

import numpy as np
import pytest
from small_models import assert_same, random_state, small

from delt_jax.errors import UserError
from delt_jax.models import timm_names, torch_weights

# Number and SHA-256 of timm 1.0.31's sorted names, a line each, without batch counters.
RECORDED = {
    "vgg11": (22, "d25c9adcf7bc1089"),
    "vgg11_bn": (54, "9a8fbf216cf1b864"),
    "mobilenet_v2": (262, "6d15a2002986888a"),
    "efficientnet_b0": (311, "ce87c1568d82402d"),
    "efficientnet_lite0": (247, "191789dfe91e036c"),
    "vit_b_16": (152, "3140050d56e79b92"),
    "swin_v2_t": (221, "288ea152eb247685"),
}
DEPTHWISE_FIRST = ("conv_dw", "bn1", "conv_pw", "bn2")
EXPANSION_FIRST = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")


def as_timm(state: dict[str, np.ndarray], architecture: str) -> dict[str, np.ndarray]:
    """The same weights as timm stores them; the way back, written on its own."""
    rename = {
        "vgg11": vgg,
        "vgg11_bn": vgg,
        "mobilenet_v2": mobilenet,
        "efficientnet_b0": efficientnet,
        "efficientnet_lite0": efficientnet_lite,
        "vit_b_16": vit,
        "swin_v2_t": swin,
    }[architecture]
    renamed = {}
    for name, array in state.items():
        renamed |= rename(name.split("."), array)
    return renamed


def vgg(parts, array):
    *_, position, leaf = parts
    if parts[0] == "features":
        return {".".join(parts): array}
    if position == "0" and leaf == "weight":
        array = array.reshape(len(array), -1, 7, 7)
    if position == "3" and leaf == "weight":
        array = array[:, :, None, None]
    module = {"0": "pre_logits.fc1", "3": "pre_logits.fc2", "6": "head.fc"}[position]
    return {f"{module}.{leaf}": array}


def mobilenet(parts, array):
    leaf = parts[-1]
    if parts[0] == "classifier":
        return {f"classifier.{leaf}": array}
    number = int(parts[1])
    if number == 0 or number == 18:
        stem = {0: ("conv_stem", "bn1"), 18: ("conv_head", "bn2")}[number]
        return {f"{stem[int(parts[2])]}.{leaf}": array}
    stage, first = [(s, n) for s, n in enumerate((1, 2, 4, 7, 11, 14, 17)) if n <= number][-1]
    layers = EXPANSION_FIRST if stage else DEPTHWISE_FIRST
    inner = [int(p) for p in parts[3:-1]]
    pairs = (len(layers) - 2) // 2  # convolution and norm in one module; the last stand alone
    if len(inner) == 2:
        layer = layers[2 * inner[0] + inner[1]]
    else:
        layer = layers[2 * pairs + inner[0] - pairs]
    return {f"blocks.{stage}.{number - first}.{layer}.{leaf}": array}


def efficientnet(parts, array):
    leaf = parts[-1]
    if parts[0] == "classifier":
        return {f"classifier.{leaf}": array}
    number = int(parts[1])
    if number in (0, 8):
        stem = {0: ("conv_stem", "bn1"), 8: ("conv_head", "bn2")}[number]
        return {f"{stem[int(parts[2])]}.{leaf}": array}
    layers = EXPANSION_FIRST if number > 1 else DEPTHWISE_FIRST
    block, position, inner = parts[2], int(parts[4]), parts[5]
    squeeze = len(layers) // 2 - 1
    if position == squeeze:
        layer = {"fc1": "se.conv_reduce", "fc2": "se.conv_expand"}[inner]
    else:
        layer = layers[2 * (position - (position > squeeze)) + int(inner)]
    return {f"blocks.{number - 1}.{block}.{layer}.{leaf}": array}


def efficientnet_lite(parts, array):
    leaf = parts[-1]
    if parts[0] != "_blocks":
        outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
        return {f"{(outer | {'_fc': 'classifier'})[parts[0]]}.{leaf}": array}
    number = int(parts[1])
    stage, first = [(s, n) for s, n in enumerate((0, 1, 3, 5, 8, 11, 15)) if n <= number][-1]
    layers = EXPANSION_FIRST if stage else DEPTHWISE_FIRST
    theirs = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    layer = dict(zip(theirs[-len(layers) :], layers, strict=True))[parts[2]]
    return {f"blocks.{stage}.{number - first}.{layer}.{leaf}": array}


def vit(parts, array):
    match parts:
        case ["class_token"]:
            return {"cls_token": array}
        case ["encoder", "pos_embedding"]:
            return {"pos_embed": array}
        case ["conv_proj", leaf]:
            return {f"patch_embed.proj.{leaf}": array}
        case ["encoder", "ln", leaf]:
            return {f"norm.{leaf}": array}
        case ["heads", "head", leaf]:
            return {f"head.{leaf}": array}
        case ["encoder", "layers", layer, *module]:
            inner = {
                "ln_1": "norm1.",
                "ln_2": "norm2.",
                "self_attention.out_proj": "attn.proj.",
                "mlp.0": "mlp.fc1.",
                "mlp.3": "mlp.fc2.",
                "self_attention": "attn.",
            }[".".join(module[:-1])]
            leaf = module[-1].replace("in_proj_", "qkv.")
            return {f"blocks.{layer.removeprefix('encoder_layer_')}.{inner}{leaf}": array}


def swin(parts, array):
    if parts[0] == "head":
        return {f"head.fc.{parts[1]}": array}
    if parts[0] == "norm":
        return {".".join(parts): array}
    number = int(parts[1])
    if number == 0:
        return {f"patch_embed.{'proj' if parts[2] == '0' else 'norm'}.{parts[3]}": array}
    if number % 2 == 0:
        return {".".join([f"layers.{number // 2}.downsample", *parts[2:]]): array}
    block = f"layers.{number // 2}.blocks.{parts[2]}."
    if parts[3:] == ["attn", "qkv", "bias"]:
        query, _, value = np.split(array, 3)
        return {f"{block}attn.q_bias": query, f"{block}attn.v_bias": value}
    if parts[3] == "mlp":
        return {f"{block}mlp.fc{1 if parts[4] == '0' else 2}.{parts[5]}": array}
    return {block + ".".join(parts[3:]): array}


def weights(architecture: str) -> dict[str, np.ndarray]:
    """Under torchvision's names; without the keys' bias, which timm leaves out."""
    state = random_state(small(architecture))
    for name, array in state.items():
        if architecture == "swin_v2_t" and name.endswith("qkv.bias"):
            array[len(array) // 3 : 2 * len(array) // 3] = 0
    return state


@pytest.mark.parametrize("name", RECORDED)
def test_timms_names_give_the_same_variables(name):
    spec, state = small(name), weights(name)
    theirs = as_timm(state, name)
    digest = hashlib.sha256("\n".join(sorted(theirs)).encode()).hexdigest()[:16]
    assert (len(theirs), digest) == RECORDED[name]
    assert not {n for n in theirs if n in state and not n.startswith(("features.", "norm."))}
    expected = torch_weights.from_torch(state, spec)
    assert_same(torch_weights.from_torch(theirs, spec), expected)


@pytest.mark.parametrize("name", [*RECORDED, "mobilenet_v2_modified", "resnet18"])
def test_torchvisions_names_stay(name):
    state = random_state(small(name))
    kept = timm_names.to_torchvision(state, name)
    assert list(kept) == list(state)
    assert all(kept[n] is state[n] for n in state)


def test_a_timm_head_is_cut_to_the_listed_classes():
    spec, state = small("mobilenet_v2"), weights("mobilenet_v2")
    wide = as_timm(state, "mobilenet_v2")
    for leaf in ("weight", "bias"):
        wide[f"classifier.{leaf}"] = np.repeat(wide[f"classifier.{leaf}"], 2, axis=0)
    cut = torch_weights.from_torch(wide, spec, [1, 2, 4, 7, 8])
    assert_same(cut, torch_weights.from_torch(state, spec))


@pytest.mark.parametrize(
    ("architecture", "renamed", "missing"),
    [
        ("vgg11", "head.fc.weight", "classifier.6.weight"),
        ("mobilenet_v2", "blocks.3.2.conv_dw.weight", "features.9.conv.1.0.weight"),
        ("efficientnet_b0", "blocks.0.0.se.conv_reduce.bias", "features.1.0.block.1.fc1.bias"),
        ("efficientnet_lite0", "blocks.5.3.bn3.bias", "_blocks.14._bn2.bias"),
        (
            "vit_b_16",
            "blocks.11.attn.qkv.bias",
            "encoder_layer_11.self_attention.in_proj_bias",
        ),
        ("swin_v2_t", "layers.2.downsample.norm.bias", "features.4.norm.bias"),
    ],
)
def test_a_key_that_is_not_timms_is_named_with_the_one_that_is_missing(
    architecture, renamed, missing
):
    theirs = as_timm(weights(architecture), architecture)
    theirs["stranger.weight"] = theirs.pop(renamed)
    with pytest.raises(UserError) as e:
        torch_weights.from_torch(theirs, small(architecture))
    assert missing in str(e.value).split("unexpected")[0]
    assert "unexpected stranger.weight." in str(e.value)


def test_half_of_swins_bias_is_named():
    theirs = as_timm(weights("swin_v2_t"), "swin_v2_t")
    del theirs["layers.1.blocks.0.attn.v_bias"]
    with pytest.raises(UserError) as e:
        torch_weights.from_torch(theirs, small("swin_v2_t"))
    assert "missing features.3.0.attn.qkv.bias" in str(e.value)
    assert "unexpected features.3.0.attn.q_bias." in str(e.value)
