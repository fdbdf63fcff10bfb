"""A network from pictures to labels in one graph, for `torch.onnx`."""

import copy

import torch
from torch import Tensor, nn

from .freeze import fold_batchnorm
from .segmentation import PROBE, SegmentationModel, random_pictures
from .upsample import upsample

OUTPUTS = ("labels", "coarse_labels", "probabilities")
INPUTS = ("uint8", "float")


class ExportedNetwork(nn.Module):
    """Pictures in; out come labels or probabilities at their size, or labels at the logits'.

    Sizes may differ from call to call. The head is two products with small matrices, of which the
    graph makes the elements: each output has its true position, whatever the picture's size.

    Args:
        model: a trained network, not frozen; it stays as it is.
        inputs: pictures are N x H x W x 3 of "uint8", or N x 3 x H x W of "float" in 0…255; RGB.
        output: "labels" N x H x W; "coarse_labels" N x h x w, for H x W to be looked up in; or
            "probabilities" N x num_class x H x W. Labels are uint8, above 256 classes int32.
    """

    def __init__(self, model: SegmentationModel, inputs: str = "uint8", output: str = "labels"):
        super().__init__()
        model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        probe = random_pictures(PROBE)
        fold_batchnorm(model, lambda: model(probe))
        fix_paddings(model)
        self.model = model.plain()
        self.inputs = inputs
        self.output = output

    def forward(self, images: Tensor) -> Tensor:
        """What `output` says."""
        images = images.permute(0, 3, 1, 2).float() if self.inputs == "uint8" else images
        model = self.model
        extents = model.encoder.extents(images)
        logits = model.decoder.logits(model.maps(images), extents)
        if self.output != "coarse_labels":
            logits = upsample(logits, images.shape[-2:], extents[model.decoder.position])
        if self.output == "probabilities":
            return logits.softmax(dim=1)
        return logits.argmax(dim=1).to(torch.uint8 if logits.shape[1] <= 256 else torch.int32)


def fix_paddings(network: nn.Module) -> None:
    """Give timm's `Conv2dSame` the padding that it computes anew for every size.

    The sides of its inputs are multiples of its stride, because pictures are continued to
    multiples of the coarsest; then it is always the same. Otherwise, the exporter takes forever.
    """
    for name, module in list(network.named_modules()):
        if type(module).__name__ == "Conv2dSame":
            assert isinstance(module, nn.Conv2d)
            reach = [
                d * (k - 1) + 1 for d, k in zip(module.dilation, module.kernel_size, strict=True)
            ]
            rows, columns = (max(0, r - s) for r, s in zip(reach, module.stride, strict=True))
            top, left = rows // 2, columns // 2
            plain = copy.copy(module)
            plain.__class__ = nn.Conv2d
            padding = nn.ZeroPad2d((left, columns - left, top, rows - top))
            network.set_submodule(name, nn.Sequential(padding, plain))
