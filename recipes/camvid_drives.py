"""Lists that split CamVid by drive: two to train on, the third to score on.

    python recipes/camvid_drives.py camvid lists     # lists/0006R0/train.txt, lists/0006R0/val.txt…

CamVid's validation pictures are of a drive that more than half of its training pictures are of, so
that they cannot tell how a network does on streets that it has never seen.
"""

import argparse
from pathlib import Path


def main() -> None:
    """Write two lists for each drive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train.txt and val.txt")
    parser.add_argument("lists", type=Path, help="folder to write to")
    args = parser.parse_args()
    try:
        texts = [(args.data / f"{split}.txt").read_text() for split in ("train", "val")]
    except OSError as error:
        parser.error(f"cannot read {error.filename}: {error.strerror}")
    names = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    for unseen in sorted({drive(name) for name in names}):
        folder = args.lists / unseen
        folder.mkdir(parents=True, exist_ok=True)
        for split in ("train", "val"):
            own = [name for name in names if (drive(name) == unseen) == (split == "val")]
            (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in own))
            print(f"{folder / split}.txt: {len(own)} pictures")


def drive(name: str) -> str:
    """The drive that a picture is of: 0016E5 for val/0016E5_07959.png."""
    return Path(name).name.partition("_")[0]


if __name__ == "__main__":
    main()
