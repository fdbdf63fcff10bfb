"""What recipes have beside commands."""


def test_camvid_is_split_so_that_one_drive_is_scored_and_the_others_trained_on(script, tmp_path):
    names = {
        "train": ["train/0001TP_1.png", "train/0016E5_2.png", "train/0006R0_3.png"],
        "val": ["val/0016E5_4.png"],
    }
    for split, lines in names.items():
        (tmp_path / f"{split}.txt").write_text("".join(f"{line}\n" for line in lines))
    result = script("recipes/camvid_drives.py", tmp_path, tmp_path / "lists")
    assert result.code == 0, result.err
    everything = sorted(names["train"] + names["val"])
    for drive, count in (("0001TP", 1), ("0006R0", 1), ("0016E5", 2)):
        train, val = (
            (tmp_path / "lists" / drive / f"{split}.txt").read_text().split()
            for split in ("train", "val")
        )
        assert sorted(train + val) == everything and len(val) == count
        assert all(drive in name for name in val) and not any(drive in name for name in train)


def test_lists_of_drives_need_lists_and_keep_blanks_in_names(script, tmp_path):
    result = script("recipes/camvid_drives.py", tmp_path, tmp_path / "lists")
    assert result.code == 2 and f"cannot read {tmp_path / 'train.txt'}" in result.err
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text(f"{split}/0006R0_a street.png\n\n")
    result = script("recipes/camvid_drives.py", tmp_path, tmp_path / "lists")
    assert result.code == 0, result.err
    (drive,) = (tmp_path / "lists").iterdir()
    expected = "train/0006R0_a street.png\nval/0006R0_a street.png\n"
    assert drive.name == "0006R0" and (drive / "val.txt").read_text() == expected
