"""What a model is built from."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to build a model; hashable, and stored with its weights.

    Attributes:
      name: of the zoo, or of a plug-in.
      num_classes: outputs.
      image_size: side of the input in pixels.
      channels: of the input.
      width: channels of the first stage; 0 is the paper's.
      dtype: of activations, "float32" or "bfloat16".
    """

    name: str
    num_classes: int
    image_size: int
    channels: int
    width: int = 0
    dtype: str = "float32"

    def as_dict(self) -> dict[str, Any]:
        """The values under the names that manifests and identities have."""
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "image_size": self.image_size,
            "channels": self.channels,
            "width": self.width,
            "dtype": self.dtype,
        }
