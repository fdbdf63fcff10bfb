import pytest
import torch

from common.devices import select_amp, select_device
from utils import UserError


def test_a_device_that_is_not_there_is_refused():
    assert select_device("cpu") == torch.device("cpu")
    for name in ("tpu", "cuda:99", "meta"):
        with pytest.raises(UserError, match=f"--device {name}"):
            select_device(name)


@pytest.mark.parametrize(
    ("capable", "expected"),
    [({}, None), ({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16)],
)
def test_half_precision_is_automatic_where_the_cpu_is_fast_at_it(capable, expected, monkeypatch):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capable, raising=False)
    assert select_amp("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_half_precision_is_bfloat16_on_gpus_that_have_it(native, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: native)
    assert select_amp("auto", torch.device("cuda")) == expected


def test_half_precision_is_what_was_asked_for():
    choices = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    assert {name: select_amp(name, torch.device("cpu")) for name in choices} == choices
