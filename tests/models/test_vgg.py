import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from models.vgg import VGG, HalvedConv2d, vgg16, vgg19


@pytest.fixture(params=[vgg16, vgg19])
def net(request) -> tuple[str, VGG]:
    return request.param.__name__, request.param()


@pytest.mark.slow
def test_the_first_four_blocks_are_those_of_torchvision(net):
    name, vgg = net
    with torch.device("meta"):
        model = getattr(torchvision.models, name)()
    until_pool4 = [i for i, m in enumerate(model.features) if isinstance(m, nn.MaxPool2d)][3]
    plain = model.features[:until_pool4].to_empty(device="cpu").eval()
    plain.load_state_dict(vgg.features[:until_pool4].state_dict())
    x = torch.rand(1, 3, 45, 64)
    with torch.no_grad():
        torch.testing.assert_close(vgg.features[:until_pool4](x), plain(x))


@pytest.mark.slow
def test_the_last_convolutions_are_dilated_and_keep_the_size(net):
    _, vgg = net
    convs = [m for m in vgg.features if isinstance(m, nn.Conv2d)]
    last = [m for m in convs if m.dilation == (2, 2)]
    assert last == convs[-len(last) :] and len(last) == {13: 3, 16: 4}[len(convs)]
    assert all(m.padding == (2, 2) for m in last)
    assert (vgg.conv6.kernel_size, vgg.conv6.dilation, vgg.conv6.padding) == (
        (7, 7),
        (4, 4),
        (12, 12),
    )
    assert sum(isinstance(m, nn.MaxPool2d) for m in vgg.features) == 3


@pytest.mark.slow
def test_whole_channels_are_dropped_in_training_only(net):
    _, vgg = net
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        dropped = (vgg.train()(x).amax((2, 3)) == 0).float().mean()
        kept = (vgg.eval()(x).amax((2, 3)) == 0).float().mean()
    assert dropped > 0.45 > kept


def test_halves_make_the_whole_convolution():
    halved = HalvedConv2d(3, 9, kernel_size=7, padding=12, dilation=4)
    x = torch.rand(2, 3, 13, 18, requires_grad=True)
    inputs = (x, halved.weight, halved.bias)
    ours = halved(x)
    exact = [value.detach().double().requires_grad_() for value in inputs]
    theirs = F.conv2d(*exact, padding=12, dilation=4)
    grad = torch.rand_like(ours)
    for mine, other in zip(
        (ours, *torch.autograd.grad(ours, inputs, grad)),
        (theirs, *torch.autograd.grad(theirs, exact, grad.double())),
        strict=True,
    ):
        torch.testing.assert_close(mine.double(), other, rtol=1e-4, atol=1e-4)
