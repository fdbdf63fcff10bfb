"""The flags of train.py, the default name of a run, and what a resumed run may change."""

import argparse
import hashlib
import os
import re
import sys
from pathlib import Path

from common.data_file import read_data
from common.distributed import is_launched
from common.runs import existing_run, is_run, read_config, run_folder
from options import MIN_SIDE, Parser, positive, share, within
from utils import MAX_STEM_BYTES, UserError

# The settings that a network depends on; a resumed training keeps them.
FIXED_WHEN_RESUMED = (
    "arch_encoder",
    "arch_decoder",
    "weights_encoder",
    "weights_decoder",
    "fc_dim",
    "num_class",
    "batch_size_per_gpu",
    "accumulate",
    "num_epoch",
    "optim",
    "lr_encoder",
    "lr_decoder",
    "lr_schedule",
    "lr_pow",
    "warmup_iters",
    "beta1",
    "weight_decay",
    "norm_weight_decay",
    "clip_grad",
    "ema_decay",
    "drop_path",
    "fix_bn",
    "sync_bn",
    "imgSize",
    "segSize",
    "amp",
    "seed",
    "label_offset",
    "class_weight",
    "logit_adjust",
    "label_smoothing",
    "ohem_thresh",
    "deepsup_scale",
    "scale_min",
    "scale_max",
    "cat_max_ratio",
    "color_jitter",
    "classmix",
)
# Settings that the name of a run always has, as the reference composes it, and those that it has
# where they are not the default.
IN_THE_NAME = {
    "arch_encoder",
    "arch_decoder",
    "batch_size_per_gpu",
    "imgSize",
    "segSize",
    "lr_encoder",
    "lr_decoder",
    "num_epoch",
    "weight_decay",
}
DATA = ("data", "list_train", "list_val", "num_val", "root_img", "root_seg", "list_class")
ADDED_TO_THE_NAME = [*DATA, *(name for name in FIXED_WHEN_RESUMED if name not in IN_THE_NAME)]


def make_parser(description: str) -> Parser:
    """The flags of train.py, by group."""
    parser = Parser(description)
    parser.group("run")
    parser.shared("id", help="name of the run (default: composed from the settings)")
    parser.add_argument(
        "--resume",
        metavar="ID",
        help="go on with a run, an id or a folder; 1 = with that of --id, or start it if it is new",
    )

    parser.group("model")
    parser.shared("arch_encoder", "arch_decoder")
    parser.add_argument(
        "--weights_encoder",
        default="",
        help="initial weights: places365, imagenet, none or a file; '' = the first there is",
    )
    parser.add_argument(
        "--weights_decoder", default="", help="initial weights: a file, '' = random"
    )
    parser.shared("fc_dim", "num_class", "list_class")

    parser.group("data")
    parser.shared("data")
    parser.add_argument(
        "--list_train",
        default="./data/ADE20K_object150_train.txt",
        help="training pictures, relative to ROOT_IMG, one a line",
    )
    parser.shared("list_val", "root_img", "root_seg", "label_offset")
    parser.shared("num_val", default=128)
    parser.add_argument(
        "--imgSize", type=within(int, MIN_SIDE), default=384, help="side of the pictures' crops"
    )
    parser.add_argument("--segSize", type=positive, default=384, help="side of the labels' crops")
    parser.shared("workers")

    parser.group("augmentation")
    parser.add_argument(
        "--scale_min",
        type=within(float, 0.01, 100),
        default=0.5,
        help="least scale of the pictures that crops show",
    )
    parser.add_argument(
        "--scale_max", type=within(float, 0.01, 100), default=1.5, help="greatest scale"
    )
    parser.add_argument(
        "--cat_max_ratio",
        type=share,
        default=1.0,
        help="crops of which one class fills more are drawn again, some times",
    )
    parser.add_argument(
        "--color_jitter",
        type=within(float, 0, 2),
        default=0.0,
        help="strength of random brightness, contrast, saturation, hue and gamma; 1 is strong",
    )
    parser.add_argument(
        "--classmix",
        type=share,
        default=0.0,
        help="share of the crops onto which half of the classes of another one are pasted",
    )

    parser.group("optimisation")
    parser.add_argument("--num_epoch", type=positive, default=100, help="epochs to train for")
    parser.add_argument(
        "--batch_size_per_gpu",
        type=positive,
        default=16,
        help="pictures in a batch of a GPU (or the CPU)",
    )
    parser.add_argument(
        "--accumulate", type=positive, default=1, help="batches whose gradients make up a step"
    )
    parser.add_argument(
        "--optim", default="SGD", choices=("SGD", "Adam", "AdamW", "Muon"), help="optimiser"
    )
    parser.add_argument(
        "--lr_encoder",
        type=within(float, 0),
        default=1e-3,
        help="initial learning rate; 0 = freeze the encoder as it is",
    )
    parser.add_argument(
        "--lr_decoder", type=within(float, 0), default=1e-2, help="initial learning rate"
    )
    parser.add_argument(
        "--lr_schedule",
        default="poly",
        choices=("poly", "cosine"),
        help="how the learning rates fall to 0",
    )
    parser.add_argument(
        "--lr_pow", type=within(float, 0), default=0.9, help="power of the schedule poly"
    )
    parser.add_argument(
        "--warmup_iters",
        type=within(int, 0, 2**31),
        default=0,
        help="steps in which the learning rates rise from 0 first",
    )
    parser.add_argument(
        "--beta1",
        type=within(float, 0, 1),
        default=0.9,
        help="momentum of SGD and Muon, beta1 of Adam",
    )
    parser.add_argument("--weight_decay", type=within(float, 0), default=1e-4, help="weight decay")
    parser.add_argument(
        "--norm_weight_decay",
        type=within(float, 0),
        help="weight decay of BatchNorm and biases (default: WEIGHT_DECAY)",
    )
    parser.add_argument(
        "--clip_grad",
        type=within(float, 0),
        default=0.0,
        help="norm that gradients are scaled down to; 0 = as they are",
    )
    parser.add_argument(
        "--ema_decay",
        type=within(float, 0, 1),
        default=0.0,
        help="score and save an exponential moving average of the weights, with this decay a step, "
        "such as 0.999; 0 = none",
    )
    parser.add_argument(
        "--drop_path",
        type=within(float, 0, 1),
        default=0.0,
        help="share of residual branches that are left out at random, of timm's encoders",
    )
    parser.add_argument(
        "--class_weight",
        default="none",
        help="against imbalance: median = the rarer a class, the more its pixels count in the "
        "loss; sqrt = half as steeply; or a CSV of index,weight",
    )
    parser.add_argument(
        "--logit_adjust",
        type=within(float, 0),
        default=0.0,
        help="share of the class weights' effect on predictions that is taken back; "
        "1 = the weights steer only what is learnt first",
    )
    parser.add_argument(
        "--label_smoothing",
        type=within(float, 0, 1),
        default=0.0,
        help="share of each label that is spread over all classes",
    )
    parser.add_argument(
        "--ohem_thresh",
        type=within(float, 0, 1),
        default=0.0,
        help="online hard example mining: only pixels whose class has a lower probability count, "
        "and at least a sixteenth; 0 = all count",
    )
    parser.add_argument(
        "--deepsup_scale",
        type=within(float, 0),
        default=0.4,
        help="weight of the auxiliary loss of decoders that have one (…_deepsup)",
    )
    parser.add_argument(
        "--fix_bn", type=int, default=0, choices=(0, 1), help="1 = freeze BatchNorm as it is"
    )
    parser.add_argument(
        "--sync_bn",
        type=int,
        choices=(0, 1),
        help="1 = BatchNorm over the batches of all processes (default: if each has less than 16)",
    )
    parser.add_argument("--seed", type=within(int, 0, 2**63), default=1234, help="random seed")
    parser.add_argument(
        "--deterministic",
        type=int,
        default=0,
        choices=(0, 1),
        help="1 = the same bits from the same seed on GPUs, too, at some cost in speed",
    )

    parser.group("hardware")
    parser.shared("device")
    parser.add_argument(
        "--num_gpus", type=positive, default=1, help="GPUs to use, if there are any"
    )
    parser.add_argument(
        "--parallel",
        default="ddp",
        choices=("ddp", "dp"),
        help="several GPUs: ddp = a process for each, dp = all in one process, which is slower",
    )
    parser.add_argument(
        "--timeout",
        type=within(float, 1),
        default=600,
        help="seconds that a process waits for another before the training ends",
    )
    parser.shared("amp")
    parser.add_argument(
        "--compile", type=int, default=0, choices=(0, 1), help="1 = compile the network first"
    )
    parser.add_argument(
        "--grad_checkpoint",
        type=int,
        default=0,
        choices=(0, 1),
        help="1 = compute the encoder twice rather than remember it: slower, in less memory",
    )

    parser.group("output")
    parser.shared("ckpt")
    parser.add_argument(
        "--ckpt_epoch", type=positive, default=10, help="epochs between kept weights"
    )
    parser.add_argument(
        "--ckpt_minutes",
        type=within(float, 0),
        default=30,
        help="minutes between saves within an epoch",
    )
    parser.add_argument("--vis", default="./vis", help="folder of the validation panels")
    parser.add_argument("--eval_epoch", type=positive, default=1, help="epochs between validations")
    parser.add_argument("--disp_iter", type=positive, default=20, help="iterations between lines")
    parser.add_argument(
        "--tensorboard",
        type=int,
        default=0,
        choices=(0, 1),
        help="1 = curves and panels for TensorBoard, in CKPT/ID/tensorboard",
    )
    return parser


def parse_args(description: str) -> argparse.Namespace:
    """The settings: those typed, and with --resume those of the run.

    Raises:
        UserError: there is no run to resume, or the flags would make it another one.
    """
    parser = make_parser(description)
    args = parser.parse_with_data()
    if is_launched():
        args.num_gpus = int(os.environ["WORLD_SIZE"])
    args.id = args.id or default_id(args, parser)
    folder = folder_to_resume(args)
    return args if folder is None else resumed_settings(parser, folder)


def default_id(args: argparse.Namespace, parser: Parser) -> str:
    """The name of a run: settings that make another network give it another name.

    It is the reference's name, then those in `ADDED_TO_THE_NAME` that are not the default: as they
    were typed or, where that is no short and plain name, as the first digits of their SHA-256. What
    some file systems refuse in a name, as in timm:resnet50@8, becomes a hyphen.
    """
    arch_encoder = re.sub(r"[^\w.-]", "-", args.arch_encoder, flags=re.ASCII)
    name = (
        f"baseline-{arch_encoder}-{args.arch_decoder}-ngpus{args.num_gpus}"
        f"-batchSize{args.num_gpus * args.batch_size_per_gpu}"
        f"-imgSize{args.imgSize}-segSize{args.segSize}"
        f"-lr_encoder{args.lr_encoder}-lr_decoder{args.lr_decoder}"
        f"-epoch{args.num_epoch}-decay{args.weight_decay}"
    )
    added = {key: getattr(args, key) for key in ADDED_TO_THE_NAME}
    tail = "".join(
        f"-{key}{value}" for key, value in added.items() if value != parser.get_default(key)
    )
    if not re.fullmatch(r"[\w.-]*", tail, re.ASCII) or len(name + tail) > MAX_STEM_BYTES:
        tail = f"-{hashlib.sha256(os.fsencode(tail)).hexdigest()[:8]}"
    return name + tail


def folder_to_resume(args: argparse.Namespace) -> Path | None:
    """The folder of the run that --resume names; None for a new run.

    Raises:
        UserError: there is no such run.
    """
    if not args.resume:
        return None
    if args.resume == "1":
        folder = run_folder(args.ckpt, args.id)
        return folder if is_run(folder) else None
    if os.path.basename(args.resume) == args.resume:
        return existing_run(args.ckpt, args.resume, "--resume")
    path = Path(os.path.abspath(args.resume))
    return existing_run(path.parent, path.name, "--resume")


def resumed_settings(parser: Parser, folder: Path) -> argparse.Namespace:
    """The settings of a run, and over them the flags that were typed.

    Raises:
        UserError: the flags would make it another run.
    """
    config = read_config(folder)
    args = parser.parse_args()
    # Another data set tells its own lists and folders, which the run's would hide.
    replaced = read_data(args.data) if args.data else {}
    flags = {
        name: f"--{name}={config[name]}"
        for name in vars(args)
        if name != "resume" and config.get(name) is not None
    }
    before = parser.parse_args([*flags.values()])
    kept = [flag for name, flag in flags.items() if name not in replaced]
    parse = parser.parse_with_data if args.data else parser.parse_args
    args = parse([*kept, *sys.argv[1:]])
    changed = [
        f"--{name}" for name in FIXED_WHEN_RESUMED if getattr(args, name) != getattr(before, name)
    ]
    if changed:
        raise UserError(
            f"{' '.join(changed)} would make {folder} another run; leave out what it was begun with"
        )
    args.ckpt, args.id = str(folder.parent), folder.name
    if is_launched():
        args.num_gpus = int(os.environ["WORLD_SIZE"])
    return args
