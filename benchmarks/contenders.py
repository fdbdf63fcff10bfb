"""Networks of other libraries, of random weights; those libraries are in `requirements.txt`."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
import torchvision
from torch import Tensor, nn

from benchmarks.classic import upsampled
from benchmarks.common import Contender, Job
from common.devices import select_amp

# A network's module, and what gives its logits of normalised pictures B x 3 x H x W, at their size.
# While it is trained, auxiliary logits may follow. H and W are multiples of 32.
Network = tuple[nn.Module, Callable[[Tensor], list[Tensor]]]
Builder = Callable[[int], Network]  # of the number of classes


def smp(name: str, num_class: int) -> Network:
    """A network of segmentation-models-pytorch, such as FPN, of ResNet-34."""
    import segmentation_models_pytorch

    build = getattr(segmentation_models_pytorch, name)
    model = build("resnet34", encoder_weights=None, encoder_depth=5, classes=num_class)
    if name == "PSPNet":
        model.encoder.make_dilated(8)
    return model, lambda images: [model(images)]


def torchvision_fcn50(num_class: int) -> Network:
    """FCN of ResNet-50 at stride 8."""
    fcn = torchvision.models.segmentation.fcn_resnet50
    model = fcn(weights=None, weights_backbone=None, num_classes=num_class)
    return model, lambda images: [model(images)["out"]]


def mit_semseg(arch_encoder: str, arch_decoder: str, num_class: int) -> Network:
    """A pair of mit-semseg, by the names that both code bases have for it."""
    from mit_semseg.models import models, resnet

    dilated = arch_encoder.endswith("dilated")
    trunk = getattr(resnet, arch_encoder.removesuffix("dilated"))(pretrained=False)
    encoder = models.ResnetDilated(trunk) if dilated else models.Resnet(trunk)
    build = {
        "ppm": models.PPM,
        "ppm_deepsup": models.PPMDeepsup,
        "upernet": partial(models.UPerNet, fpn_dim=512),
    }
    decoder = build[arch_decoder](num_class, fc_dim=2048)

    def forward(images: Tensor) -> list[Tensor]:
        # Logits come with their log-sum-exp taken off, which changes no probability.
        logits = decoder(encoder(images, return_feature_maps=True))
        logits = logits if isinstance(logits, tuple) else (logits,)
        return [upsampled(x, images.shape[-2:]) for x in logits]

    return nn.ModuleList([encoder, decoder]), forward


NETWORKS: dict[str, Builder] = {
    "segmentation_models_pytorch, PSPNet of ResNet-34": partial(smp, "PSPNet"),
    "segmentation_models_pytorch, UPerNet of ResNet-34": partial(smp, "UPerNet"),
    "segmentation_models_pytorch, FPN of ResNet-34": partial(smp, "FPN"),
    "torchvision, fcn_resnet50": torchvision_fcn50,
    "mit_semseg, resnet50dilated + ppm": partial(mit_semseg, "resnet50dilated", "ppm"),
    "mit_semseg, resnet50dilated + ppm_deepsup": partial(
        mit_semseg, "resnet50dilated", "ppm_deepsup"
    ),
    "mit_semseg, resnet50 + upernet": partial(mit_semseg, "resnet50", "upernet"),
}
# Those of other libraries that a pair of ours is compared with.
COMPARED = {
    ("resnet34_dilated8", "psp_bilinear"): ["segmentation_models_pytorch, PSPNet of ResNet-34"],
    ("resnet50_dilated8", "psp_bilinear"): [
        "mit_semseg, resnet50dilated + ppm",
        "torchvision, fcn_resnet50",
    ],
    ("resnet50dilated", "ppm_deepsup"): ["mit_semseg, resnet50dilated + ppm_deepsup"],
    ("resnet50", "upernet"): ["mit_semseg, resnet50 + upernet"],
    ("timm:resnet34", "upernet_lite"): [
        "segmentation_models_pytorch, UPerNet of ResNet-34",
        "segmentation_models_pytorch, FPN of ResNet-34",
    ],
}


def compared(arch: tuple[str, str], peer: Callable[..., Job]) -> dict[str, Contender]:
    """The networks that are compared with a pair, by title; those of missing libraries are not.

    Args:
        arch: encoder and decoder of the pair.
        peer: makes a job of a network's builder and the half precision that ours is run in, on
            torch's default device.
    """
    amp = select_amp("auto", torch.get_default_device())
    precision = ", in half precision" if amp else ""
    return {
        f"{title}{precision}": partial(peer, NETWORKS[title], amp)
        for title in COMPARED.get(arch, [])
        if find_spec(title.partition(",")[0])
    }
