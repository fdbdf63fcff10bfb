"""Export a network for use elsewhere: as one file, or as a folder to share.

    python export.py --id ID                            # export/ID/model.onnx, for any size
    python export.py --id ID --size 720 1280            # for one size
    python export.py --id ID --output probabilities --half 1
    python export.py --id ID --format safetensors       # weights, settings, classes, a page on them

A file in the ONNX format goes from pictures to labels. It is compared with the network at once, in
onnxruntime, on pictures of five sizes; one that labels another way is not kept. It needs packages:
pip install onnx onnxscript onnxruntime. A folder in safetensors is what others can name as --id.
docs/deploy.md has programs that use either.
"""

import argparse
from pathlib import Path

from common.files import check_writable
from common.runs import find_run
from exporting.graph import export_graph, import_packages
from exporting.shared import share
from models import ModelError
from models.exported import INPUTS, OUTPUTS
from options import Parser, fill_from_run, side
from utils import run_script

FORMATS = ("onnx", "safetensors")
OF_A_GRAPH = ("input", "output", "size", "half", "int8")  # flags that only an ONNX file heeds


def parse_args() -> argparse.Namespace:
    """The flags."""
    parser = Parser(__doc__.splitlines()[0])
    parser.group("run")
    parser.shared("id", "suffix")
    parser.group("model")
    parser.from_run("arch_encoder", "arch_decoder")
    parser.shared("fc_dim")
    parser.from_run("num_class", "list_class")
    parser.group("graph")
    parser.add_argument(
        "--input",
        choices=INPUTS,
        default="uint8",
        help="uint8 = pictures N x H x W x 3, RGB; float = N x 3 x H x W in 0 to 255",
    )
    parser.add_argument(
        "--output",
        choices=OUTPUTS,
        default="labels",
        help="labels = N x H x W, class indices from 0; coarse_labels = as many as the network has "
        "logits; probabilities = N x NUM_CLASS x H x W",
    )
    parser.add_argument(
        "--size",
        type=side,
        nargs=2,
        metavar=("H", "W"),
        help="the one size of the pictures (default: any)",
    )
    parser.add_argument(
        "--half", type=int, choices=(0, 1), default=0, help="1 = compute in half precision"
    )
    parser.add_argument(
        "--int8",
        metavar="LIST",
        help="compute convolutions in 8 bits, whose ranges come from the pictures of this list; "
        "the run's validation pictures are scored before and after",
    )
    parser.group("data")
    parser.from_run("list_val", "root_img", "root_seg", "label_offset")
    parser.shared("num_val", default=-1)
    parser.group("output")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="onnx",
        help="onnx = a file for other programs; safetensors = a folder for these scripts",
    )
    parser.add_argument("--panel", metavar="PICTURE", help="show this picture on a folder's page")
    parser.shared("ckpt")
    parser.shared("result", default="./export", help="folder of the files, in RESULT/ID")
    args = parser.parse_args()
    parser.require(args, "id")
    if args.int8 and (args.half or args.size or args.output != "labels"):
        parser.error("--int8 goes without --half and --size, and with --output labels")
    other = OF_A_GRAPH if args.format == "safetensors" else ("panel",)
    for name in other:
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name} is not for --format {args.format}")
    return args


def main() -> None:
    """Export a run's network."""
    args = parse_args()
    folder = Path(args.result) / args.id
    check_writable("--result", folder)
    if args.format == "onnx":
        import_packages()
    fill_from_run(args, find_run(args.ckpt, args.id, args.suffix))
    export = export_graph if args.format == "onnx" else share
    print("\n".join(export(args, folder)))


if __name__ == "__main__":
    run_script(main, ModelError)
