"""The reference implementation's state-dict keys and outputs, and the weights behind these."""

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
    """Shapes by key, by architecture; a decoder is named NAME@FC_DIM."""
    return json.loads((REFERENCE / "state_dict_keys.json").read_text())


@pytest.fixture(scope="session")
def reference_outputs() -> dict[str, np.ndarray]:
    """Parts of outputs, by architecture and kind."""
    with np.load(REFERENCE / "outputs.npz") as file:
        return dict(file)


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
            last_of_branch = ".bn3" in key or (".bn2" in key and "layer" in key)
            state[key] = (1 + 0.1 * noise) * (0.25 if last_of_branch else 1)
        else:
            state[key] = 0.1 * noise
    module.load_state_dict(state)
    return module.eval()
