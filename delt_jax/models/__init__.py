"""The model zoo: builds every architecture from its name and a few numbers.

May import `augment`, `runtime`, `store`, `core` and `errors`.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from delt_jax.core import plugins
from delt_jax.errors import UserError
from delt_jax.models import outside
from delt_jax.models.alexnet import AlexNet
from delt_jax.models.convnet import ConvNet
from delt_jax.models.dc_convnet import DCConvNet
from delt_jax.models.efficientnet import EfficientNetB0
from delt_jax.models.efficientnet_lite import EfficientNetLite0
from delt_jax.models.mobilenet import MobileNetV2, SmallMobileNetV2
from delt_jax.models.resnet import ResNet
from delt_jax.models.shufflenet import ShuffleNetV2
from delt_jax.models.spec import ModelSpec
from delt_jax.models.swin import HEAD_WIDTH as SWIN_HEAD_WIDTH
from delt_jax.models.swin import SwinV2
from delt_jax.models.vgg import VGG11
from delt_jax.models.vit import HEAD_WIDTH as VIT_HEAD_WIDTH
from delt_jax.models.vit import PATCH, VisionTransformer
from delt_jax.models.wide_conv import WideConv

__all__ = ["NAMES", "ModelSpec", "create", "version"]


def _convnet(
    depth: int, module: Callable[[int, int, int, jnp.dtype], nn.Module]
) -> Callable[[ModelSpec], nn.Module]:
    def build(spec: ModelSpec) -> nn.Module:
        if spec.image_size < 2**depth:
            raise UserError(
                f"{spec.name} halves the image {depth} times, so images of {spec.image_size} px "
                f"vanish; use at least {2**depth} px (data.image_size) or a shallower ConvNet."
            )
        return module(depth, spec.width or 128, spec.num_classes, jnp.dtype(spec.dtype))

    return build


def _wide_conv(
    depth: int, batch_norm: bool = False, activation: str = "relu"
) -> Callable[[ModelSpec], nn.Module]:
    return _convnet(
        depth, functools.partial(WideConv, batch_norm=batch_norm, activation=activation)
    )


def _at_least(spec: ModelSpec, smallest: int, instead: str = "") -> None:
    """Raises a UserError for images that the network would shrink to nothing or to padding."""
    if spec.image_size < smallest:
        raise UserError(
            f"{spec.name} needs images of at least {smallest} px, but data.image_size is "
            f"{spec.image_size}; use larger images"
            + (f" or {instead}, which has a small stem." if instead else ".")
        )


def _multiple_width(spec: ModelSpec, of: int, default: int) -> int:
    """The width; raises a UserError unless the attention heads can share it evenly."""
    width = spec.width or default
    if width % of:
        raise UserError(f"{spec.name} needs a width that is a multiple of {of}, not {width}.")
    return width


def _resnet(
    blocks: tuple[int, ...], small_stem: bool, bottleneck: bool = False
) -> Callable[[ModelSpec], nn.Module]:
    def build(spec: ModelSpec) -> nn.Module:
        if small_stem:
            _at_least(spec, 8)
        else:
            _at_least(spec, 32, f"{spec.name}_modified")
        dtype = jnp.dtype(spec.dtype)
        return ResNet(blocks, spec.width or 64, spec.num_classes, small_stem, dtype, bottleneck)

    return build


def _vgg11(batch_norm: bool) -> Callable[[ModelSpec], nn.Module]:
    def build(spec: ModelSpec) -> nn.Module:
        _at_least(spec, 32)
        return VGG11(spec.width or 64, spec.num_classes, batch_norm, jnp.dtype(spec.dtype))

    return build


def _alexnet(spec: ModelSpec) -> nn.Module:
    _at_least(spec, 63)
    return AlexNet(spec.width or 64, spec.num_classes, jnp.dtype(spec.dtype))


def _mobilenet_v2(spec: ModelSpec) -> nn.Module:
    _at_least(spec, 32, f"{spec.name}_modified")
    return MobileNetV2(spec.width or 32, spec.num_classes, jnp.dtype(spec.dtype))


def _mobilenet_v2_modified(spec: ModelSpec) -> nn.Module:
    _at_least(spec, 8)
    return SmallMobileNetV2(spec.width or 32, spec.num_classes, jnp.dtype(spec.dtype))


def _efficientnet_b0(spec: ModelSpec) -> nn.Module:
    _at_least(spec, 32)
    return EfficientNetB0(spec.width or 32, spec.num_classes, jnp.dtype(spec.dtype))


def _efficientnet_lite0(spec: ModelSpec) -> nn.Module:
    _at_least(spec, 32)
    return EfficientNetLite0(spec.width or 32, spec.num_classes, jnp.dtype(spec.dtype))


def _shufflenet_v2(stages: tuple[int, int, int]) -> Callable[[ModelSpec], nn.Module]:
    def build(spec: ModelSpec) -> nn.Module:
        _at_least(spec, 32)
        scale = (spec.width or 24) / 24

        def even(channels: int) -> int:
            return max(2, 2 * round(channels * scale / 2))

        first, second, third = (even(c) for c in stages)
        channels = (spec.width or 24, first, second, third, even(1024))
        return ShuffleNetV2(channels, spec.num_classes, jnp.dtype(spec.dtype))

    return build


def _vit_b_16(spec: ModelSpec) -> nn.Module:
    if spec.image_size < PATCH or spec.image_size % PATCH:
        raise UserError(
            f"{spec.name} cuts images into patches of {PATCH} px, so data.image_size must be a "
            f"multiple of {PATCH}, not {spec.image_size}."
        )
    width = _multiple_width(spec, VIT_HEAD_WIDTH, 768)
    return VisionTransformer(12, width, spec.num_classes, jnp.dtype(spec.dtype))


def _swin_v2_t(spec: ModelSpec) -> nn.Module:
    _at_least(spec, 32)
    width = _multiple_width(spec, SWIN_HEAD_WIDTH, 96)
    return SwinV2(width, spec.num_classes, jnp.dtype(spec.dtype))


_REGISTRY: dict[str, Callable[[ModelSpec], nn.Module]] = {
    "conv3": _convnet(3, ConvNet),
    "conv4": _convnet(4, ConvNet),
    "conv5": _convnet(5, ConvNet),
    "conv6": _convnet(6, ConvNet),
    "conv3_wide": _wide_conv(3),
    "conv4_wide": _wide_conv(4),
    "conv5_wide": _wide_conv(5),
    "conv3_wide_bn": _wide_conv(3, batch_norm=True),
    "conv4_wide_bn": _wide_conv(4, batch_norm=True),
    "conv5_wide_bn": _wide_conv(5, batch_norm=True),
    "conv3_wide_softplus": _wide_conv(3, activation="softplus"),
    "dc_conv3": _convnet(3, DCConvNet),
    "dc_conv4": _convnet(4, DCConvNet),
    "dc_conv5": _convnet(5, DCConvNet),
    "dc_conv6": _convnet(6, DCConvNet),
    "resnet18": _resnet((2, 2, 2, 2), small_stem=False),
    "resnet18_modified": _resnet((2, 2, 2, 2), small_stem=True),
    "resnet34": _resnet((3, 4, 6, 3), small_stem=False),
    "resnet34_modified": _resnet((3, 4, 6, 3), small_stem=True),
    "resnet50": _resnet((3, 4, 6, 3), small_stem=False, bottleneck=True),
    "resnet50_modified": _resnet((3, 4, 6, 3), small_stem=True, bottleneck=True),
    "resnet101": _resnet((3, 4, 23, 3), small_stem=False, bottleneck=True),
    "resnet101_modified": _resnet((3, 4, 23, 3), small_stem=True, bottleneck=True),
    "vgg11": _vgg11(batch_norm=False),
    "vgg11_bn": _vgg11(batch_norm=True),
    "alexnet": _alexnet,
    "mobilenet_v2": _mobilenet_v2,
    "mobilenet_v2_modified": _mobilenet_v2_modified,
    "efficientnet_b0": _efficientnet_b0,
    "efficientnet_lite0": _efficientnet_lite0,
    "shufflenet_v2_x0_5": _shufflenet_v2((48, 96, 192)),
    "shufflenet_v2_x1_0": _shufflenet_v2((116, 232, 464)),
    "vit_b_16": _vit_b_16,
    "swin_v2_t": _swin_v2_t,
}
NAMES = tuple(_REGISTRY)
_VERSIONS: dict[str, int] = {}  # of architectures whose outputs have changed; 1 if not listed


def version(name: str) -> int:
    """Version of an architecture, part of the identity of everything made with it."""
    if name in _REGISTRY:
        return _VERSIONS.get(name, 1)
    return plugins.version(plugins.MODELS, name)


def create(spec: ModelSpec) -> nn.Module:
    """Builds the Flax module of a specification.

    Raises:
      UserError: for an unknown name, an image size that the architecture cannot take, or a plug-in
        that is no classifier as docs/extending.md says.
    """
    found = plugins.find(plugins.MODELS, spec.name, _REGISTRY)
    return found(spec) if spec.name in _REGISTRY else outside.create(spec, found)
