"""`SegmentationModel`: encoder and decoder as one network, from pictures to a loss or to logits.

It is the module that is moved to a device, trained, and replicated over GPUs.
"""

import copy
import logging
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .decoders import Decoder
from .encoder import Encoder
from .freeze import deviation, fold_batchnorm
from .interpolation import Extent
from .loss import CrossEntropy
from .windows import Windows, encode_in_windows
from .winograd import Conv3x3

# Pictures of up to so many pixels are encoded at once, larger ones in windows, except in training.
# With resnet34_dilated8, 24 megapixels take 6.0 GB at once, 3.8 GB in windows that overlap by 256
# pixels. On one enlarged street scene, with a trained network, an overlap of 128 pixels changed 2
# labels in 10,000, one of 192 pixels 2 in a million, and 256 none.
WHOLE_PIXELS = 2**22
WINDOW, OVERLAP = 1536, 192  # pixels, as `Windows` has them

PROBE = (1, 3, 96, 128)  # the picture on which a frozen network is compared with the plain one
TOLERANCE = 1e-3  # of their outputs' deviation
ROUNDING = 3  # times what half precision changes in the plain one are allowed beside that

logger = logging.getLogger(__name__)


class SegmentationModel(nn.Module):
    """Pictures in; with labels the loss out, without them the low-resolution logits.

    Args:
        encoder: pictures B x 3 x H x W, normalised, to maps B x C_i x h_i x w_i.
        decoder: maps to logits B x num_class x h x w.
        amp: half-precision type that convolutions may be computed in; None = full precision, or
            the type of the caller's own autocast. The loss is never rounded.
        loss: the training loss, as `CrossEntropy` has it; None = that itself.
        deepsup_scale: weight of the auxiliary loss of a decoder that has one.
    """

    encoder: Encoder
    decoder: Decoder
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        amp: torch.dtype | None = None,
        loss: nn.Module | None = None,
        deepsup_scale: float = 0.4,
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.amp = amp
        self.loss = loss or CrossEntropy()
        self.deepsup_scale = deepsup_scale
        # In the pictures' units of 0…255.
        mean = torch.tensor(encoder.mean).view(3, 1, 1) * 255
        std = torch.tensor(encoder.std).view(3, 1, 1) * 255
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        # The format in which convolutions run fastest, on CPUs and GPUs alike.
        self.memory_format = torch.channels_last
        self.to(memory_format=self.memory_format)

    def forward(
        self, images: Tensor, labels: Tensor | None = None, count_correct: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The `loss` if there are labels, else the logits.

        Args:
            images: B x 3 x H x W, RGB, uint8 or (once rescaled) floating point in 0…255.
            labels: B x H' x W', integers: 0…num_class-1, or -1 (255 in uint8) = unlabelled.
            count_correct: with the loss, give the number of pixels that are predicted right.

        Returns:
            The loss, a (weighted) mean at the labels' size, or logits B x num_class x h x w.
        """
        logits, auxiliary = self.all_logits(images)
        if labels is None:
            return logits
        result = self.loss(logits, labels, self.extent(images), count_correct)
        if auxiliary is None:
            return result
        loss, *correct = result if isinstance(result, tuple) else (result,)
        extent = self.encoder.extents(images)[-2]
        loss = loss + self.deepsup_scale * self.loss(auxiliary, labels, extent)
        return (loss, correct[0]) if count_correct else loss

    def all_logits(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The logits of pictures, and those of the auxiliary loss if there is one in this mode."""
        with torch.autocast(self.mean.device.type, dtype=self.amp) if self.amp else nullcontext():
            if self.training or images.shape[-2] * images.shape[-1] <= WHOLE_PIXELS:
                maps = self.maps(images)
            else:
                strides = self.encoder.strides[-self.decoder.num_maps :]
                windows = Windows(WINDOW, OVERLAP, self.encoder.coarsest_stride)
                maps = encode_in_windows(self.maps, images, strides, windows)
            logits = self.decoder.logits(maps, self.encoder.extents(images))
            auxiliary = self.decoder.auxiliary_logits(maps) if self.decoder.training else None
        return logits, auxiliary

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile all but the loss, whose bands reuse memory; the arguments are torch's.

        What `torch.compiler.disable` would leave out costs every script two seconds, as it imports
        the compiler.
        """
        self.all_logits = torch.compile(self.all_logits, *args, **options)  # type: ignore

    def __getstate__(self) -> dict:
        """The state of a copy, which is not compiled: what is compiled is of this network."""
        state = super().__getstate__()
        state.pop("all_logits", None)
        return state

    def extent(self, images: Tensor) -> Extent:
        """Height and width of pictures … x H x W in logits."""
        return self.encoder.extents(images)[self.decoder.position]

    def maps(self, images: Tensor) -> list[Tensor]:
        """The maps that the decoder looks at, of pictures B x 3 x H x W in 0…255."""
        x = (images - self.mean) / self.std
        x = x.contiguous(memory_format=self.memory_format)
        return self.encoder.maps(x, self.decoder.num_maps)

    def freeze(self) -> "SegmentationModel":
        """Make the network fast for inference and unfit for training.

        BatchNorm becomes part of the convolutions. Weights are rounded to `amp`, and transformed
        for minimal filtering, once rather than at every call.

        Returns:
            This network; or, where that changes its output, the network as it was.
        """
        self.eval().requires_grad_(False)
        plain = self.plain()
        probe = random_pictures(PROBE).to(self.mean.device)
        fold_batchnorm(self, lambda: self(probe))
        for module in self.modules():
            if type(module) is Conv3x3:
                module.is_frozen = True
        self.encoder.to(self.amp)
        self.decoder.to(self.amp)
        self.to(memory_format=torch.channels_last)
        if self.agrees_with(plain, probe):
            return self
        logger.warning(
            "WARNING: made fast, this network gives another output; it is used as it is, slowly."
        )
        return plain

    def plain(self) -> "SegmentationModel":
        """A copy without anything that is there for speed alone, but `amp`."""
        plain = copy.deepcopy(self).to(memory_format=torch.contiguous_format)
        plain.memory_format = torch.contiguous_format
        return plain

    @torch.no_grad()
    def agrees_with(self, plain: "SegmentationModel", images: Tensor) -> bool:
        """Whether the logits of pictures B x 3 x H x W are another network's but for rounding."""
        training = self.training
        exact = rounded = plain.eval()(images)
        if plain.amp:
            amp, plain.amp = plain.amp, None
            exact = plain(images)
            plain.amp = amp
        found = deviation(self.eval()(images), exact)
        self.train(training)
        # What is not finite has no deviation; whoever uses the logits has to check that anyway.
        return not exact.isfinite().all() or found <= (
            TOLERANCE + ROUNDING * deviation(rounded, exact)
        )


def random_pictures(size: tuple[int, ...]) -> Tensor:
    """Noise of that size, B x 3 x H x W, the same every time."""
    return torch.randint(256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
