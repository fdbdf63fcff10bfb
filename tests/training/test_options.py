"""Default names of runs."""

import re

import pytest

from training.options import ADDED_TO_THE_NAME, FIXED_WHEN_RESUMED, default_id, make_parser
from utils import MAX_STEM_BYTES

from ..conftest import flags

REFERENCE = (
    "baseline-resnet34_dilated8-c1_bilinear-ngpus1-batchSize16-imgSize384-segSize384"
    "-lr_encoder0.001-lr_decoder0.01-epoch100-decay0.0001"
)
OTHER_VALUES = {
    "arch_encoder": "vgg16_dilated8",
    "arch_decoder": "psp_bilinear",
    "accumulate": 4,
    "optim": "Adam",
    "beta1": 0.5,
    "class_weight": "sqrt",
    "amp": "off",
    "lr_schedule": "cosine",
} | dict.fromkeys(("drop_path", "ema_decay", "label_smoothing", "ohem_thresh"), 0.5)


def name_of(**settings) -> str:
    parser = make_parser("")
    return default_id(parser.parse_args(flags(**settings)), parser)


def test_a_run_with_the_defaults_is_called_as_in_the_reference():
    assert name_of() == REFERENCE


def test_other_settings_are_added_as_they_were_typed():
    name = name_of(seed=7, optim="AdamW", class_weight="sqrt")
    assert name == f"{REFERENCE}-optimAdamW-seed7-class_weightsqrt"


def test_a_name_has_nothing_that_file_systems_refuse():
    name = name_of(arch_encoder="timm:resnet50.a1_in1k@8")
    assert name == REFERENCE.replace("resnet34_dilated8", "timm-resnet50.a1_in1k-8")


@pytest.mark.parametrize("setting", sorted({*ADDED_TO_THE_NAME, *FIXED_WHEN_RESUMED}))
def test_another_network_has_another_name(setting):
    parser = make_parser("")
    default = parser.get_default(setting)
    value = OTHER_VALUES.get(setting)
    if value is None:
        number = default is None or not isinstance(default, str)
        value = 1 if number and default != 1 else 0 if number else "a/path with spaces"
    value = 33 if setting in ("imgSize", "segSize") else value
    assert name_of(**{setting: value}) != REFERENCE


def test_paths_and_long_values_become_digits_that_tell_them_apart():
    names = [name_of(list_train=path) for path in ("a/train.txt", "b/train.txt", "x" * 500)]
    assert len(set(names)) == 3
    for name in names:
        assert re.fullmatch(rf"{REFERENCE}-[0-9a-f]{{8}}", name) and len(name) <= MAX_STEM_BYTES
