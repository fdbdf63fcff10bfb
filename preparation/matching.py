"""Match pictures with labels that are images, by what their names have in common.

The word for what a folder or file holds, such as `images` and `masks` or `_leftImg8bit` and
`_gtFine_labelTrainIds`, tells pictures from labels. What is left of a name is the same for both.
Where no word tells, it is looked at the files.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from preparation.files import SPLIT_WORD, SourceFiles, split_in, split_of
from preparation.labels import Label, LabelFile
from preparation.tables import ClassTable
from utils import UserError, abbreviate

PICTURE_WORDS = {
    "images", "image", "img", "imgs", "jpegimages", "leftimg8bit", "pictures", "photos", "rgb",
}  # fmt: skip
LABEL_WORDS = {
    "masks", "mask", "labels", "label", "annotations", "annotation", "annot", "annots", "gt", "seg",
    "gtfine", "gtcoarse", "segmentationclass", "segmentationclassaug", "segmentationclassraw",
    "segs", "segmentation", "segmentations", "groundtruth", "semantic",
}  # fmt: skip
OTHER_WORDS = {
    "segmentationobject", "instance", "instances", "instanceids", "polygons", "panoptic", "depth",
    "disparity", "normal", "normals", "flow",
}  # fmt: skip
# Ends of names that say what a file is, longest first.
PICTURE_ENDS = ("_leftImg8bit", "_image", "_img", "_rgb", "_sat")
LABEL_ENDS = (
    "_gtFine_labelTrainIds", "_gtCoarse_labelTrainIds", "_labelTrainIds", "_train_id",
    "_gtFine_labelIds", "_gtCoarse_labelIds", "_labelIds",
    "_segmentation", "_labels", "_label", "_masks", "_mask", "_seg", "_gt", "_L",
)  # fmt: skip
OTHER_ENDS = ("_gtFine_color", "_gtFine_instanceIds", "_gtCoarse_color", "_gtCoarse_instanceIds")
PICTURE_START = re.compile(r"(?:img|image)s?[_\-]?(?=\d)", re.IGNORECASE)
LABEL_START = re.compile(r"(?:mask|label|seg|gt)s?[_\-]?(?=\d)", re.IGNORECASE)
LOOKED_AT = 5  # files of a group, to tell labels from pictures
MOST_LABEL_COLOURS = 64  # of a file that may be a label


@dataclass(frozen=True)
class FoundPair:
    """A picture, by its name in the source, its label, and its split or ""."""

    picture: str
    label: Label
    split: str = ""


@dataclass
class Found:
    """What a source was recognised as.

    Attributes:
        form: in words.
        pairs: pictures and labels.
        table: the classes, where the source tells.
        left_out: what was left out, by the reason.
        remarks: other things to know, a line each.
    """

    form: str
    pairs: list[FoundPair] = field(default_factory=list)
    table: ClassTable | None = None
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class NamedFile:
    """An image by the parts of its name.

    Attributes:
        name: in the source.
        role: "picture", "label", "other", "both", or "" where no word tells.
        folders: what is left of its folders, as a key.
        stems: of the file's name, as it is and without words for what it is.
        rank: of the kind of label; less is better.
    """

    name: str
    role: str
    folders: tuple[str, ...]
    stems: tuple[str, ...]
    rank: int = 0


def match(files: SourceFiles, label_name: str | None = None) -> Found:
    """Pairs of pictures and labels.

    Args:
        files: of the source.
        label_name: how labels are called, with {stem} in place of their picture's name.
    """
    if label_name is not None:
        images = [with_label_name(name, label_name) for name in files.images]
    else:
        images = tell_roles(files, [parts_of(name) for name in files.images])
    pictures = [image for image in images if image.role == "picture"]
    labels = [image for image in images if image.role == "label"]
    found = Found("")
    if others := sorted(
        {os.path.dirname(image.name) or "." for image in images}
        - {os.path.dirname(image.name) or "." for image in (*pictures, *labels)}
    ):
        found.left_out["folders of neither pictures nor labels"] = others
    chosen = match_files(files, pictures, labels, found)
    found.form = form_of(chosen)
    for picture, label in chosen:
        split = split_of(picture.name) or split_of(label.name)
        found.pairs.append(FoundPair(picture.name, LabelFile(str(files.root / label.name)), split))
    if any(label.name.lower().endswith((".jpg", ".jpeg")) for _, label in chosen):
        found.remarks.append("labels are JPEGs, which lose what they hold: PNGs are exact")
    return found


def match_files(
    files: SourceFiles, pictures: Sequence[NamedFile], labels: Sequence[NamedFile], found: Found
) -> list[tuple[NamedFile, NamedFile]]:
    """The label of each picture; notes what is left out."""
    by_key: dict[tuple, list[NamedFile]] = defaultdict(list)
    by_stem: dict[str, list[NamedFile]] = defaultdict(list)
    for label in labels:
        for stem in label.stems:
            by_key[label.folders, stem].append(label)
            by_stem[stem].append(label)
    stems = Counter(picture.stems[0] for picture in pictures)
    chosen: list[tuple[NamedFile, NamedFile]] = []
    taken: dict[str, NamedFile] = {}
    for picture in pictures:
        keys = [by_key[picture.folders, stem] for stem in picture.stems]
        # In folders that have no words in common, names that occur once; never of another split.
        if stems[picture.stems[0]] == 1:
            keys += [
                [label for label in by_stem[stem] if may_share_split(picture.name, label.name)]
                for stem in picture.stems
            ]
        candidates = next((labels for labels in keys if labels), [])
        best = [label for label in candidates if label.rank == min(c.rank for c in candidates)]
        if not best:
            found.left_out["pictures without a label"].append(picture.name)
        elif len(best) > 1:
            found.left_out["pictures with several labels (--label_name tells which)"].append(
                f"{picture.name}: {abbreviate([label.name for label in best])}"
            )
        elif best[0].name in taken:
            found.left_out["pictures whose label another one has already"].append(picture.name)
            refuse_other_folder(files, picture, taken[best[0].name])
        else:
            taken[best[0].name] = picture
            chosen.append((picture, best[0]))
    rank = min((label.rank for _, label in chosen), default=0)
    if other := [picture.name for picture, label in chosen if label.rank > rank]:
        found.left_out["pictures with labels of another kind"] = other
    chosen = [pair for pair in chosen if pair[1].rank == rank]
    spare = [label.name for label in labels if label.name not in taken and label.rank == rank]
    if spare:
        found.left_out["labels without a picture"] = spare
    return chosen


def may_share_split(one: str, other: str) -> bool:
    """Whether the folders of two files do not tell different splits."""
    return len({split_of(one), split_of(other)} - {""}) < 2


def refuse_other_folder(files: SourceFiles, picture: NamedFile, other: NamedFile) -> None:
    """Refuse two pictures of one label that lie in different folders, such as rgb and depth.

    Raises:
        UserError: they do.
    """
    if os.path.dirname(picture.name) != os.path.dirname(other.name):
        raise UserError(
            f"{files.root}: {other.name} and {picture.name} have the same label: which folder has "
            "the pictures? Take the other one out"
        )


def parts_of(name: str) -> NamedFile:
    """The role of an image by the words in its name, and what is left of that."""
    *folders, file = name.split("/")
    stem = os.path.splitext(file)[0]
    role, left = "", []
    for folder in folders:
        words = [w for w in re.split(r"[_\-. ]+", SPLIT_WORD.sub(" ", folder)) if w]
        kinds = [kind_of(word) for word in words]
        told = {kind for kind in kinds if kind}
        role = ("both" if len(told) > 1 else told.pop()) if told else role
        rest = [word for word, kind in zip(words, kinds, strict=True) if not kind]
        left += [part for part in (split_in(folder), "_".join(rest).lower()) if part]
    stems = [stem]
    rank = 1
    inner, ending = os.path.splitext(stem)
    if ending.lower() in (".jpg", ".jpeg", ".png"):  # as in x.jpg.png
        stems.append(inner)
    end = next((end for end in LABEL_ENDS if stem.endswith(end) and stem != end), "")
    if any(stem.endswith(end) for end in OTHER_ENDS):
        role = "other"
    elif role != "picture" and end:
        role, rank = "label", rank_of(end)
        stems.append(stem.removesuffix(end))
    elif role != "label" and (end := next((e for e in PICTURE_ENDS if stem.endswith(e)), "")):
        role = "picture"
        stems.append(stem.removesuffix(end))
    for start, kind in ((LABEL_START, "label"), (PICTURE_START, "picture")):
        if (found := start.match(stem)) and role in ("", kind):
            role = kind
            stems.append(stem[found.end() :])
    return NamedFile(name, role, tuple(left), tuple(stems), rank)


def kind_of(word: str) -> str:
    """The role that a word in the name of a folder tells, or ""."""
    word = word.lower()
    words = {"picture": PICTURE_WORDS, "label": LABEL_WORDS, "other": OTHER_WORDS}
    return next((role for role, known in words.items() if word in known), "")


def with_label_name(name: str, label_name: str) -> NamedFile:
    """The parts of an image's name, where the user tells how labels are called."""
    pattern = re.escape(label_name).replace(r"\{stem\}", "([^/]+)")
    found = re.fullmatch(rf"(?:.*/)?{pattern}", name)
    parts = parts_of(name)
    if found:
        return NamedFile(name, "label", parts.folders, (found[1],))
    return NamedFile(name, "picture", parts.folders, (Path(name).stem,))


def tell_roles(files: SourceFiles, images: Sequence[NamedFile]) -> list[NamedFile]:
    """Images whose roles are all known: where words tell of labels only, the rest are pictures.

    Where no word tells, groups of one folder and ending are looked at.
    """
    stems = {(os.path.dirname(image.name), image.stems[0]) for image in images}
    images = [beside_picture(image, stems) for image in images]
    known = {image.role for image in images}
    if "label" not in known and "both" in known:  # as in mask_images, unless there are masks, too
        images = [replace(i, role="label") if i.role == "both" else i for i in images]
        known = {image.role for image in images}
    if "label" in known:
        rest = "other" if "picture" in known else "picture"
        return [replace(image, role=image.role or rest) for image in images]
    groups: dict[tuple[str, str], list[NamedFile]] = defaultdict(list)
    for image in images:
        path = Path(image.name)
        groups[path.parts[0] if len(path.parts) > 1 else "", path.suffix.lower()].append(image)
    told = []
    for group in groups.values():
        step = max(1, len(group) // LOOKED_AT)
        paths = [files.root / image.name for image in group[::step][:LOOKED_AT]]
        role = "label" if all(map(looks_like_label, paths)) else "picture"
        told += [replace(image, role=role, folders=image.folders[1:]) for image in group]
    return sorted(told, key=lambda image: image.name)


def beside_picture(image: NamedFile, stems: set[tuple[str, str]]) -> NamedFile:
    """The image, a label if its name is that of one beside it with an end for labels."""
    folder, stem = os.path.dirname(image.name), image.stems[0]
    for end in LABEL_ENDS:
        if stem.endswith(end) and (folder, stem.removesuffix(end)) in stems:
            names = (stem, stem.removesuffix(end))
            return replace(image, role="label", stems=names, rank=rank_of(end))
    return image


def rank_of(end: str) -> int:
    """The rank of labels with an end: Cityscapes' training ids come before its ids."""
    return 0 if end.lower().endswith(("trainids", "train_id")) else 2 if "Ids" in end else 1


def looks_like_label(path: Path) -> bool:
    """Whether a file has a palette, one channel, or few colours."""
    try:
        with Image.open(path) as image:
            if image.format == "JPEG":
                return False
            if image.mode in ("P", "1", "L", "I", "I;16"):
                return image.getcolors(MOST_LABEL_COLOURS * 4) is not None
            return image.convert("RGB").getcolors(MOST_LABEL_COLOURS) is not None
    except Exception:  # Pillow has a dozen kinds; what cannot be decoded is named later
        return False


def form_of(pairs: Sequence[tuple[NamedFile, NamedFile]]) -> str:
    """In words, what pairs of files look like."""
    if not pairs:
        return "pictures and labels"
    picture, label = pairs[0]
    beside = os.path.dirname(picture.name) == os.path.dirname(label.name)
    where = "labels beside pictures" if beside else "labels and pictures in folders"
    return f"{where}, such as {label.name} for {picture.name}"


def too_few(files: SourceFiles, found: Found) -> str:
    """Why there are not two pairs, by what is there."""
    endings = Counter(os.path.splitext(name)[1] or "no ending" for name in files.names)
    there = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(6))
    reasons = "; ".join(
        f"{what} ({len(names)}): {abbreviate(names[:6])}" for what, names in found.left_out.items()
    )
    return (
        f"{files.root} has {len(found.pairs)} pairs of a picture and a label, and two are the "
        f"least; files: {there or 'none'}; {reasons + '; ' if reasons else ''}where labels are "
        "called otherwise, tell how: --label_name '{stem}_mask.png'; where the others lie beside "
        "this folder, give the one above both"
    )
