"""Flags as a user meets them: grouped help with defaults, and what a typo gets."""

import pytest


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        (
            "train.py",
            ["run", "model", "data", "augmentation", "optimisation", "hardware", "output"],
        ),
        ("eval.py", ["run", "model", "data", "hardware", "output"]),
        ("test.py", ["run", "model", "data", "hardware", "output"]),
    ],
)
def test_help_groups_the_flags_and_tells_their_defaults(name, groups, script):
    result = script(name, "--help")
    assert result.code == 0
    titles = [
        line[:-1] for line in result.out.splitlines() if line[:1].isalpha() and line[-1] == ":"
    ]
    assert titles == ["options", *groups]
    text = " ".join(result.out.split())
    assert "folder of the runs (default: ./ckpt)" in text
    assert "(default: None)" not in text and "(default: )" not in text
    assert ("(default: the run's)" in text) == (name != "train.py")


@pytest.mark.parametrize(
    ("flags", "meant"),
    [
        (["--arch_encodr", "resnet34_dilated8"], "--arch_encoder"),
        (["--lr-encoder=0.1"], "--lr_encoder"),
        (["--img_size", "32"], "--imgSize"),
    ],
)
def test_a_typo_in_a_flag_is_answered_with_the_nearest_one(flags, meant, script):
    result = script("train.py", *flags)
    assert result.code == 2 and result.err.count("\n") == 1
    assert f"did you mean {meant}?" in result.err


def test_what_is_wrong_with_a_flag_that_exists_needs_no_other_one(script):
    result = script("train.py", "--num_epoch", "x")
    assert result.code == 2 and "did you mean" not in result.err
