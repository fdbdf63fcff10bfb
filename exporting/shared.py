"""A run as a folder to share: what others need to use it, and a page about it."""

import argparse
import json
import os
import shlex
from pathlib import Path

import torch

from common.classes import Classes, class_table, read_classes
from common.files import Content, is_filled, made_aside, png, text, write_together
from common.images import read_picture
from common.runs import CLASSES, PARTS, run_folder, weights_files
from inference import load_parts, predict
from models import SegmentationModel
from models.weights import SAFETENSORS
from utils import UserError
from visualize.panels import panel

# What another needs to know of a run; paths of this machine are no part of it.
SETTINGS = ("arch_encoder", "arch_decoder", "num_class", "label_offset")
SCORES, PANEL, PAGE = "scores.json", "panel.png", "README.md"
MEASURES = {
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
}


def share(args: argparse.Namespace, folder: Path) -> list[str]:
    """Write the run that the settings name into a new folder, whole or not at all.

    Returns:
        What to print.

    Raises:
        UserError, ModelError: the run cannot be read, or the folder cannot be made.
    """
    if is_filled(folder):
        raise UserError(f"--result {folder} is there; remove it, or choose another folder")
    classes = read_classes(args.list_class, args.num_class)
    parts = load_parts(args)
    scores, told = found_scores(args)
    settings = {name: getattr(args, name) for name in SETTINGS}
    settings |= {"fc_dim": parts[0].fc_dim, "list_class": CLASSES}
    files: dict[str, Content | str] = {
        "config.json": text(json.dumps({"id": args.id, **settings}, indent=2) + "\n"),
        CLASSES: text(class_table(classes)),
        PAGE: text(page(args, classes, scores)),
    }
    for name, part in zip(PARTS, parts, strict=True):
        files[f"{name}_best{SAFETENSORS}"] = safetensors_of(part.state_dict())
    if scores:
        files[SCORES] = text(json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
    if args.panel:
        model = SegmentationModel(*parts).eval()
        picture = read_picture(args.panel)
        images = torch.from_numpy(picture).permute(2, 0, 1)[None]
        labels = predict(model, images, picture.shape[:2])[0].numpy()
        files[PANEL] = png(panel(picture, labels, classes))
    with made_aside(folder) as aside:
        write_together(aside, files)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    return [f"{folder}: {len(files)} files, {size:.1f} MB", told]


def safetensors_of(state: dict[str, torch.Tensor]) -> Content:
    """The content of a file in that format.

    Raises:
        UserError: its package is not installed.
    """
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise UserError("--format safetensors needs a package: pip install safetensors") from error
    tensors = {name: value.contiguous() for name, value in state.items()}
    return lambda file: file.write(save(tensors))


def found_scores(args: argparse.Namespace) -> tuple[dict | None, str]:
    """The scores that `eval.py` wrote of these very weights, without paths; and what to say of it.

    Scores of other weights than those that are shared would be wrong without a word.
    """
    path = Path("result") / args.id / SCORES
    again = f"python eval.py --id {shlex.quote(args.id)} --suffix {args.suffix}, then share again"
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        scored_at = path.stat().st_mtime
        settings = scores.pop("settings")
        kept = ("suffix", "protocol", "imgSize", "segSize", "scales", "flip", "list_val")
        scores["settings"] = {name: settings[name] for name in kept}
        scores["settings"]["list_val"] = Path(settings["list_val"]).name
        same = settings["suffix"] == args.suffix
        same &= os.path.realpath(settings["ckpt"]) == os.path.realpath(args.ckpt)
    except FileNotFoundError:
        return None, f"without scores: there is no {path}; {again}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, f"without scores: {path} is damaged; {again}"
    folder = run_folder(args.ckpt, args.id)
    files = [folder / name for name in weights_files(folder, args.suffix)]
    if not same or any(file.stat().st_mtime > scored_at for file in files):
        return None, f"without scores: those in {path} are of other weights; {again}"
    return scores, f"with the scores of {path}"


def page(args: argparse.Namespace, classes: Classes, scores: dict | None) -> str:
    """The page about a network, in Markdown with what a hub reads above it."""
    network = f"{args.arch_encoder} + {args.arch_decoder}"
    lines = [
        "---",
        "pipeline_tag: image-segmentation",
        "tags: [semantic-segmentation, pytorch]",
        "---",
        "",
        f"# {args.id}",
        "",
        f"Semantic segmentation into {args.num_class} classes: {network}.",
        "",
    ]
    if args.panel:
        lines += [f"![A picture, its classes by this network, and a legend]({PANEL})", ""]
    lines += [
        "With the scripts that trained it, in this folder's parent:",
        "",
        "```",
        f"python test.py --id ./{shlex.quote(args.id)} --test_img photo.jpg",
        "```",
        "",
        "Or `--id hf:OWNER/NAME`, where it has been uploaded. Its weights are safetensors; "
        f"`config.json` has its settings, and `{CLASSES}` names and colours of the classes.",
        "",
        *(score_lines(scores) if scores else class_lines(classes)),
    ]
    return "\n".join(lines) + "\n"


def class_lines(classes: Classes) -> list[str]:
    """The classes; it has not been scored."""
    return ["## Classes", "", "It has not been scored.", "", ", ".join(classes.names)]


def score_lines(scores: dict) -> list[str]:
    """The scores, as tables."""
    settings = scores["settings"]
    scales = ", ".join(f"{scale:g}" for scale in settings["scales"])
    means = [f"| {name} | {scores[key]:.2%} |" for key, name in MEASURES.items()]
    rows = []
    for row in scores["classes"]:
        name = row["name"].replace("|", "&#124;")
        measured = " | ".join(percent(row[key]) for key in ("iou", "accuracy", "share"))
        rows.append(f"| {row['index']} | {name} | {measured} |")
    return [
        "## Scores",
        "",
        f"On the {scores['pictures']} pictures of `{settings['list_val']}`, at scales {scales}"
        f"{', mirrored as well' if settings['flip'] else ''}; protocol `{settings['protocol']}`.",
        "",
        "| | |",
        "| --- | ---: |",
        *means,
        "",
        "| | class | IoU | accuracy | share of the pixels |",
        "| ---: | --- | ---: | ---: | ---: |",
        *rows,
    ]


def percent(value: float | None) -> str:
    """A fraction in percent; a dash where there is none."""
    return "-" if value is None else f"{value:.2%}"
