"""State-dict keys and outputs of the reference implementations, and the weights behind these."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def reference_keys() -> dict[str, dict[str, list[int]]]:
    """Shapes by key, by architecture; a decoder is named NAME@FC_DIM or NAME@ENCODER."""
    files = ("state_dict_keys.json", "mit_state_dict_keys.json")
    keys = [json.loads((REFERENCE / name).read_text()) for name in files]
    return keys[0] | keys[1]


@pytest.fixture(scope="session")
def reference_outputs() -> dict[str, np.ndarray]:
    """Parts of outputs, by architecture and kind."""
    outputs = {}
    for name in ("outputs.npz", "mit_outputs.npz"):
        with np.load(REFERENCE / name) as file:
            outputs |= file
    return outputs


def fill(module: nn.Module) -> nn.Module:
    """Give a module the reference's weights, which follow from each parameter's name alone."""
    state = {}
    for key, value in module.state_dict().items():
        shape = tuple(value.shape)
        noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
        noise = torch.as_tensor(noise, dtype=torch.float32)
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros_like(value)
        elif key.endswith("running_var"):
            state[key] = 1 + 0.1 * noise.abs()
        elif noise.ndim == 4:
            state[key] = noise * (2 / noise[0].numel()) ** 0.5
        elif key.endswith("weight"):
            state[key] = (1 + 0.1 * noise) * (0.25 if ".bn2" in key or ".bn3" in key else 1)
        else:
            state[key] = 0.1 * noise
    module.load_state_dict(state)
    return module.eval()
