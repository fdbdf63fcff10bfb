"""Networks for segmentation: dilated encoders and bilinear decoders behind `ModelBuilder`."""

from .builder import DECODERS, ENCODERS, ModelBuilder
from .segmentation import SegmentationModel
from .weights import ModelError

__all__ = ["DECODERS", "ENCODERS", "ModelBuilder", "ModelError", "SegmentationModel"]
