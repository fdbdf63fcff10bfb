import pytest
import torch
import torchvision

from models.resnet import ResNet


def layers(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    for i in range(1, 5):
        x = getattr(net, f"layer{i}")(x)
    return x


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("depth", [34, 50])
def test_dilation_computes_what_strides_would_have_and_what_lies_between(depth, output_stride):
    """The à-trous identity: every k-th value of the dilated network is the strided network's."""
    torch.manual_seed(0)
    strided = getattr(torchvision.models, f"resnet{depth}")().double().eval()
    dilated = ResNet(depth, output_stride, stem_dim=64).double().eval()
    weights = {k: v for k, v in strided.state_dict().items() if k.startswith("layer")}
    dilated.load_state_dict(weights, strict=False)
    x = torch.rand(1, 64, 37, 50, dtype=torch.float64)
    with torch.no_grad():
        step = 32 // output_stride
        torch.testing.assert_close(layers(dilated, x)[..., ::step, ::step], layers(strided, x))


@pytest.mark.slow
def test_the_convolutions_that_lost_their_stride_are_dilated_by_half():
    def dilations(net: ResNet, layer: str, conv: str) -> list[tuple]:
        blocks = getattr(net, layer)
        convs = [getattr(block, conv) for block in blocks]
        assert all(c.padding == c.dilation and c.stride == (1, 1) for c in convs)
        return [c.dilation[0] for c in convs]

    assert dilations(ResNet(34, 8, 64), "layer3", "conv1") == [1, 2, 2, 2, 2, 2]
    assert dilations(ResNet(34, 8, 64), "layer3", "conv2") == [2, 2, 2, 2, 2, 2]
    assert dilations(ResNet(34, 8, 64), "layer4", "conv1") == [2, 4, 4]
    assert dilations(ResNet(50, 8, 64), "layer4", "conv2") == [2, 4, 4]
    assert dilations(ResNet(50, 16, 64), "layer4", "conv2") == [1, 2, 2]
