"""timm's names for the zoo's architectures, turned into torchvision's.

timm divides the same networks into other modules. Its ResNets are named as torchvision's;
AlexNet, ShuffleNet-V2 and the small variants it does not have. EfficientNet-Lite0, which
torchvision does not have, gets the names of efficientnet_lite_pytorch. Which of timm's weights
compute what the zoo's networks do:

- `vgg11`, `vgg11_bn` up to 255 px, beyond which timm slides its first linear layer over the map;
- `vit_base_patch16_224` without layer scale or another activation, as most of its weights are;
- `mobilenetv2_100` and `efficientnet_b0`; the `tf_` ones pad otherwise;
- `tf_efficientnet_lite0`, which pads as the zoo's does; `efficientnet_lite0` does not;
- `swinv2_tiny_window8_256` at multiples of 256 px: timm pads and cuts other maps otherwise. The
  `window16` weights have the same names and shapes, but mean other offsets.
"""

import re
from collections.abc import Mapping

import numpy as np

_Substitutions = tuple[tuple[str, str], ...]


def _in_block(stages: str, **modules: str) -> _Substitutions:
    """Substitutions for the modules in blocks of some stages: torchvision's name by timm's."""
    return tuple(
        (rf"^(blocks\.{stages}\.\d+)\.{theirs}\.", rf"\1.{ours}.")
        for theirs, ours in modules.items()
    )


def _numbered(prefix: str, blocks: tuple[int, ...], first: int = 0) -> _Substitutions:
    """Substitutions for blocks that are counted over all stages."""
    pairs = [(stage, block) for stage, count in enumerate(blocks) for block in range(count)]
    return tuple(
        (rf"^blocks\.{stage}\.{block}\.", f"{prefix}.{number}.")
        for number, (stage, block) in enumerate(pairs, start=first)
    )


_VGG: _Substitutions = (
    (r"^pre_logits\.fc1\.", "classifier.0."),
    (r"^pre_logits\.fc2\.", "classifier.3."),
    (r"^head\.fc\.", "classifier.6."),
)
_SUBSTITUTIONS: dict[str, _Substitutions] = {
    "vgg11": _VGG,
    "vgg11_bn": _VGG,
    "mobilenet_v2": (
        (r"^conv_stem\.", "features.0.0."),
        (r"^bn1\.", "features.0.1."),
        *_in_block("0", conv_dw="conv.0.0", bn1="conv.0.1", conv_pw="conv.1", bn2="conv.2"),
        *_in_block("[1-6]", conv_pw="conv.0.0", bn1="conv.0.1", conv_dw="conv.1.0"),
        *_in_block("[1-6]", bn2="conv.1.1", conv_pwl="conv.2", bn3="conv.3"),
        *_numbered("features", (1, 2, 3, 4, 3, 3, 1), first=1),
        (r"^conv_head\.", "features.18.0."),
        (r"^bn2\.", "features.18.1."),
        (r"^classifier\.(?=\D)", "classifier.1."),
    ),
    "efficientnet_b0": (
        (r"^conv_stem\.", "features.0.0."),
        (r"^bn1\.", "features.0.1."),
        *_in_block("0", conv_dw="block.0.0", bn1="block.0.1", se="block.1"),
        *_in_block("0", conv_pw="block.2.0", bn2="block.2.1"),
        *_in_block("[1-6]", conv_pw="block.0.0", bn1="block.0.1", conv_dw="block.1.0"),
        *_in_block("[1-6]", bn2="block.1.1", se="block.2", conv_pwl="block.3.0", bn3="block.3.1"),
        (r"\.conv_reduce\.", ".fc1."),
        (r"\.conv_expand\.", ".fc2."),
        *((rf"^blocks\.{stage}\.", f"features.{stage + 1}.") for stage in range(7)),
        (r"^conv_head\.", "features.8.0."),
        (r"^bn2\.", "features.8.1."),
        (r"^classifier\.(?=\D)", "classifier.1."),
    ),
    "efficientnet_lite0": (
        (r"^conv_stem\.", "_conv_stem."),
        (r"^conv_head\.", "_conv_head."),
        (r"^bn1\.", "_bn0."),
        (r"^bn2\.", "_bn1."),
        *_in_block("0", conv_dw="_depthwise_conv", bn1="_bn1", conv_pw="_project_conv", bn2="_bn2"),
        *_in_block("[1-6]", conv_pw="_expand_conv", bn1="_bn0", conv_dw="_depthwise_conv"),
        *_in_block("[1-6]", bn2="_bn1", conv_pwl="_project_conv", bn3="_bn2"),
        *_numbered("_blocks", (1, 2, 2, 3, 3, 4, 1)),
        (r"^classifier\.", "_fc."),
    ),
    "vit_b_16": (
        (r"^cls_token$", "class_token"),
        (r"^pos_embed$", "encoder.pos_embedding"),
        (r"^patch_embed\.proj\.", "conv_proj."),
        (r"^blocks\.(\d+)\.norm([12])\.", r"blocks.\1.ln_\2."),
        (r"^blocks\.(\d+)\.attn\.qkv\.", r"blocks.\1.self_attention.in_proj_"),
        (r"^blocks\.(\d+)\.attn\.proj\.", r"blocks.\1.self_attention.out_proj."),
        (r"^blocks\.(\d+)\.mlp\.fc1\.", r"blocks.\1.mlp.0."),
        (r"^blocks\.(\d+)\.mlp\.fc2\.", r"blocks.\1.mlp.3."),
        (r"^blocks\.", "encoder.layers.encoder_layer_"),
        (r"^norm\.", "encoder.ln."),
        (r"^head\.", "heads.head."),
    ),
    "swin_v2_t": (
        (r"^patch_embed\.proj\.", "features.0.0."),
        (r"^patch_embed\.norm\.", "features.0.2."),
        *((rf"^layers\.{stage}\.downsample\.", f"features.{2 * stage}.") for stage in (1, 2, 3)),
        *((rf"^layers\.{stage}\.blocks\.", f"features.{2 * stage + 1}.") for stage in range(4)),
        (r"\.mlp\.fc1\.", ".mlp.0."),
        (r"\.mlp\.fc2\.", ".mlp.3."),
        (r"^head\.fc\.", "head."),
    ),
}


def to_torchvision(state: Mapping[str, np.ndarray], architecture: str) -> dict[str, np.ndarray]:
    """A state dict under torchvision's names and in its shapes.

    Args:
      state: named by timm or torchvision; what neither knows keeps its name.
      architecture: a name of `delt_jax.models`.
    """
    substitutions = _SUBSTITUTIONS.get(architecture, ())
    renamed = {}
    for name, array in state.items():
        for pattern, replacement in substitutions:
            name = re.sub(pattern, replacement, name)
        renamed[name] = array
    if architecture.startswith("vgg11"):
        return {name: _as_linear(name, array) for name, array in renamed.items()}
    return _joined_biases(renamed) if architecture == "swin_v2_t" else renamed


def _as_linear(name: str, array: np.ndarray) -> np.ndarray:
    """A convolution over the whole map [O, C, H, W] as a linear layer [O, C * H * W]."""
    whole_map = name.startswith("classifier.") and np.ndim(array) == 4
    return array.reshape(len(array), -1) if whole_map else array


def _joined_biases(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Joins the biases of queries and values; the keys have none, so theirs is zero."""
    joined = dict(state)
    for name in [n for n in state if n.endswith(".q_bias")]:
        layer = name.removesuffix("q_bias")
        if f"{layer}v_bias" in state:
            query, value = joined.pop(name), joined.pop(f"{layer}v_bias")
            joined[f"{layer}qkv.bias"] = np.concatenate([query, np.zeros_like(query), value])
    return joined
