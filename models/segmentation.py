"""`SegmentationModel`: encoder and decoder as one network, from pictures to a loss or to logits.

It is the module that is moved to a device, trained, and replicated over GPUs.
"""

from contextlib import nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from .decoders import BilinearDecoder
from .encoder import Encoder
from .upsample import Extent, upsample_cross_entropy
from .windows import encode_in_windows

# Pictures of up to so many pixels are encoded at once, larger ones in windows, except in training.
# With resnet34_dilated8, 24 megapixels take 6.0 GB at once, 3.8 GB in windows that overlap by 256
# pixels. On one enlarged street scene, with a trained network, an overlap of 128 pixels changed 2
# labels in 10,000, one of 192 pixels 2 in a million, and 256 none.
WHOLE_PIXELS = 2**22
WINDOW, OVERLAP = 1536, 192  # pixels, as `encode_in_windows` has them


class SegmentationModel(nn.Module):
    """Pictures in; with labels the loss out, without them the low-resolution logits.

    Args:
        encoder: pictures B x 3 x H x W, normalised, to features B x fc_dim x h x w.
        decoder: features to logits B x num_class x h x w.
        amp: half-precision type that convolutions may be computed in; None = full precision, or
            the type of the caller's own autocast. The loss is never rounded.
        class_weight: num_class, how much a pixel of each class counts in the loss; None = alike.
    """

    encoder: Encoder
    decoder: BilinearDecoder
    mean: Tensor
    std: Tensor
    class_weight: Tensor | None

    def __init__(
        self,
        encoder: Encoder,
        decoder: BilinearDecoder,
        amp: torch.dtype | None = None,
        class_weight: Tensor | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.amp = amp
        # ImageNet's statistics of RGB in 0…1, in the pictures' units of 0…255.
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1) * 255
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) * 255
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.register_buffer("class_weight", class_weight, persistent=False)
        # The format in which convolutions run fastest, on CPUs and GPUs alike.
        self.to(memory_format=torch.channels_last)

    def forward(
        self, images: Tensor, labels: Tensor | None = None, count_correct: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The `loss` if there are labels, else the logits.

        Args:
            images: B x 3 x H x W, RGB, uint8 or (once rescaled) floating point in 0…255.
            labels: B x H' x W', integers: 0…num_class-1, or -1 (255 in uint8) = unlabelled.
            count_correct: with the loss, give the number of pixels that are predicted right.

        Returns:
            The (weighted) mean cross-entropy at the labels' size, or logits B x num_class x h x w.
        """
        with torch.autocast(self.mean.device.type, dtype=self.amp) if self.amp else nullcontext():
            if self.training or images.shape[-2] * images.shape[-1] <= WHOLE_PIXELS:
                features = self.features(images)
            else:
                stride = self.encoder.output_stride
                features = encode_in_windows(self.features, images, stride, WINDOW, OVERLAP)
            logits = self.decoder.logits(features)
        if labels is None:
            return logits
        return self.loss(logits, labels, self.encoder.extent(images), count_correct)

    def loss(
        self, logits: Tensor, labels: Tensor, extent: Extent, count_correct: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The training loss; to train with another one, change this method.

        Args:
            logits: B x num_class x h x w, in half precision with `amp`.
            labels: B x H x W, integers: 0…num_class-1, or -1 (255 in uint8) = unlabelled.
            extent: height and width of the pictures in features.
            count_correct: also give the number of pixels that are predicted right.

        Returns:
            A scalar: a mean over the labelled pixels, 0 where there are none. With `count_correct`,
            beside it, that number (int64).
        """
        return upsample_cross_entropy(logits, labels, extent, self.class_weight, count_correct)

    def features(self, images: Tensor) -> Tensor:
        """The encoder's features, B x fc_dim x h x w, of pictures B x 3 x H x W in 0…255."""
        x = (images - self.mean) / self.std
        return self.encoder(x.contiguous(memory_format=torch.channels_last))

    def freeze(self) -> "SegmentationModel":
        """Make the network fast for inference and unfit for training; returns it.

        BatchNorm becomes part of the convolutions, and their weights are rounded to `amp` once
        rather than at every call.
        """
        self.eval().requires_grad_(False)
        for parent in self.modules():
            for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                    setattr(parent, norm_name, nn.Identity())
        self.encoder.to(self.amp)
        self.decoder.to(self.amp)
        return self.to(memory_format=torch.channels_last)
