from typing import NamedTuple

import pytest
import torch

from common.devices import select_amp, select_device
from common.distributed import local_device
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


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_is_the_first_gpu_or_the_cpu(cuda, mps, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    current = []
    monkeypatch.setattr("torch.cuda.set_device", current.append)
    device = torch.device(expected)
    monkeypatch.setattr("torch.zeros", lambda *_, device: Probe(torch.device(device)))
    assert select_device("auto") == device
    assert current == ([device] if cuda else [])


class Probe(NamedTuple):
    """A tensor on a device that this machine may not have."""

    device: torch.device

    def item(self) -> float:
        return 0.0


def test_processes_of_a_machine_do_not_share_a_gpu_by_mistake(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--device cuda:1 would put all processes"):
        local_device("cuda:1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert local_device("cuda:1") == "cuda:1"
