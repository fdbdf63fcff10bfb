"""Train a network for semantic segmentation.

    python train.py                                    # ADE20K, resnet34_dilated8 + c1_bilinear
    python train.py --arch_encoder resnet50_dilated8 --arch_decoder psp_bilinear --num_gpus 4
    python train.py --id mine --num_class 11 --list_train mine/train.txt --list_val mine/val.txt \\
        --root_img mine/images --root_seg mine/annotations
    python train.py --resume mine                      # after whatever ended it

A run lives in CKPT/ID: settings, weights, history and curves; its panels are in VIS/ID.
"""

import argparse
import logging
import os
import shlex
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until Ctrl-C can be answered in one line

import torch
from torch import nn
from torch.amp import GradScaler
from torch.utils.data import DataLoader

from balance import find_balance
from checkpoint import (
    Progress,
    Run,
    check_writable,
    existing_run,
    is_run,
    new_run,
    read_config,
    run_file,
    run_folder,
    write_whole,
)
from classes import Classes, read_classes
from dataset import EpochSampler, TrainDataset, ValDataset, make_loader
from distributed import Team, is_launched, launch
from engine import train_one_epoch, validate
from inference import MIN_SIDE
from models import ModelBuilder, ModelError, SegmentationModel
from monitor import Monitor, describe_device, giga_macs
from optim import freeze_batchnorm, make_optimizer
from options import Parser, positive, within
from utils import StopRequest, UserError, is_labelled, run_script, select_amp, select_device
from visualize.curves import history_figures

logger = logging.getLogger("train")

FEW_PICTURES = 16  # on a GPU: their statistics are too noisy for BatchNorm
# What a resumed training must have in common with what it was: all that its network depends on.
FIXED = (
    *("arch_encoder", "arch_decoder", "weights_encoder", "weights_decoder", "fc_dim", "num_class"),
    *("batch_size_per_gpu", "accumulate", "num_epoch", "optim", "lr_encoder", "lr_decoder"),
    *("lr_pow", "beta1", "weight_decay", "fix_bn", "sync_bn", "imgSize", "segSize", "amp", "seed"),
    *("label_offset", "class_weight"),
)


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__.splitlines()[0])
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
        "--optim", default="SGD", choices=("SGD", "Adam", "AdamW"), help="optimiser"
    )
    parser.add_argument(
        "--lr_encoder", type=within(float, 0), default=1e-3, help="initial learning rate"
    )
    parser.add_argument(
        "--lr_decoder", type=within(float, 0), default=1e-2, help="initial learning rate"
    )
    parser.add_argument(
        "--lr_pow", type=within(float, 0), default=0.9, help="power of the rates' decay to 0"
    )
    parser.add_argument(
        "--beta1", type=within(float, 0, 1), default=0.9, help="momentum of SGD, beta1 of Adam"
    )
    parser.add_argument("--weight_decay", type=within(float, 0), default=1e-4, help="weight decay")
    parser.add_argument(
        "--class_weight",
        default="none",
        help="against imbalance: median = the rarer a class, the more its pixels count in the "
        "loss; sqrt = half as steeply; or a CSV of index,weight",
    )
    parser.add_argument(
        "--fix_bn", type=int, default=0, choices=(0, 1), help="1 = freeze BatchNorm as it is"
    )
    parser.add_argument(
        "--sync_bn",
        type=int,
        choices=(0, 1),
        help="1 = BatchNorm over the batches of all GPUs (default: where each has less than 16)",
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

    args = parser.parse_args()
    if is_launched():
        args.num_gpus = int(os.environ["WORLD_SIZE"])
    args.id = args.id or (
        f"baseline-{args.arch_encoder}-{args.arch_decoder}-ngpus{args.num_gpus}"
        f"-batchSize{args.num_gpus * args.batch_size_per_gpu}"
        f"-imgSize{args.imgSize}-segSize{args.segSize}"
        f"-lr_encoder{args.lr_encoder}-lr_decoder{args.lr_decoder}"
        f"-epoch{args.num_epoch}-decay{args.weight_decay}"
    )
    return resumed(parser, args) if args.resume else args


def resumed(parser: Parser, args: argparse.Namespace) -> argparse.Namespace:
    """The settings of the run to go on with, but for those that are given and may change.

    Raises:
        UserError: there is no such run, or it would become another one.
    """
    if args.resume == "1":
        folder = run_folder(args.ckpt, args.id)
        if not is_run(folder):
            return args
    elif os.path.basename(args.resume) == args.resume:
        folder = existing_run(args.ckpt, args.resume, "--resume")
    else:
        path = Path(os.path.abspath(args.resume))
        folder = existing_run(str(path.parent), path.name, "--resume")
    config = read_config(run_file(folder, "config.json"))
    flags = [
        f"--{name}={config[name]}"
        for name in vars(args)
        if name != "resume" and config.get(name) is not None
    ]
    before = parser.parse_args(flags)
    args = parser.parse_args([*flags, *sys.argv[1:]])
    changed = [f"--{name}" for name in FIXED if getattr(args, name) != getattr(before, name)]
    if changed:
        raise UserError(
            f"{' '.join(changed)} would make {folder} another run; leave out what it was begun with"
        )
    args.ckpt, args.id = str(folder.parent), folder.name
    if is_launched():
        args.num_gpus = int(os.environ["WORLD_SIZE"])
    return args


def main() -> None:
    args = parse_args()
    if args.num_gpus > 1 and args.parallel == "ddp" and not is_launched():
        check_gpus(args.num_gpus, select_device(args.device))
        return launch(args.num_gpus)
    team = Team(args.device, args.timeout)
    with team.watch():
        train(args, team)
    team.close()


def train(args: argparse.Namespace, team: Team) -> None:
    """Train as one of a team: data, network and what there is of the run; then the epochs."""
    with team.agree():
        folder = run_folder(args.ckpt, args.id)
        resuming = bool(args.resume) and is_run(folder)
    some_begin = not all(team.gather(resuming))
    with team.agree():
        if resuming and some_begin:
            raise UserError(
                f"--resume: there is {folder} for some processes and not for others; all machines "
                "have to see one --ckpt folder"
            )
        if args.parallel == "dp" and is_launched():
            raise UserError("--parallel dp is for a single process; leave it out")
        if not is_launched():
            check_gpus(args.num_gpus, team.device)
        if args.fix_bn and args.weights_encoder == "none":
            raise UserError("--fix_bn 1: BatchNorm of --weights_encoder none has yet to learn")
        if not resuming:
            new_run(args.ckpt, args.id)
        check_writable("--ckpt", folder)
        check_writable("--vis", Path(args.vis) / args.id)
        if args.compile:
            check_compiler(args, team.device)
        classes = read_classes(args.list_class, args.num_class)
        # All crops are of one size: worth finding what is best for it. Without --amp, convolutions
        # take TF32 where a GPU has it, as is torch's default, but never the head.
        torch.backends.cudnn.benchmark = not args.deterministic
        if args.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
            torch.use_deterministic_algorithms(True, warn_only=True)

        data = dict(root_img=args.root_img, root_seg=args.root_seg, num_class=args.num_class)
        data["label_offset"] = args.label_offset
        crop = dict(imgSize=args.imgSize, segSize=args.segSize)
        train_set = TrainDataset(args.list_train, **data, **crop, seed=args.seed)
        val_set = ValDataset(args.list_val, **data, **crop, limit=args.num_val)
        batch_size = args.batch_size_per_gpu * (args.num_gpus if args.parallel == "dp" else 1)
        sampler = EpochSampler(len(train_set), batch_size, args.seed, team.rank, team.size)
        pin = dict(pin_memory=team.device.type == "cuda")
        train_loader = make_loader(train_set, args.workers, batch_sampler=sampler, **pin)
        share = range(team.rank, len(val_set), team.size)
        val_loader = make_loader(val_set, args.workers, batch_size, sampler=share, **pin)
        source = args.class_weight
        if resuming and source != "none":  # the run has its own, whatever became of the source
            source = run_file(folder, "class_weight.csv")
    balance = find_balance(source, train_set, classes.names, args.workers, team)
    with team.agree():
        torch.manual_seed(args.seed)
        # A run that is resumed has weights, and other processes are given those of rank 0.
        fresh = team.rank == 0 and not resuming
        encoder = ModelBuilder.build_encoder(
            args.arch_encoder, args.fc_dim, args.weights_encoder if fresh else "none"
        )
        encoder.grad_checkpoint = bool(args.grad_checkpoint)
        decoder = ModelBuilder.build_decoder(
            *(args.arch_decoder, encoder.fc_dim, args.num_class, args.segSize),
            weights=args.weights_decoder if fresh else "",
        )
        amp = select_amp(args.amp, team.device)
        weight = torch.from_numpy(balance.weight).float() if balance else None
        model: nn.Module = SegmentationModel(encoder, decoder, amp, weight).to(team.device)
        if args.fix_bn:
            freeze_batchnorm(model)
        if team.size > 1 and wants_sync_bn(args, team.device):
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        scaler = GradScaler(team.device.type, enabled=amp == torch.float16)
        optimizer = make_optimizer(args, encoder, decoder, fused=not scaler.is_enabled())
        config = {**vars(args), "fc_dim": encoder.fc_dim, "weights_used": encoder.weights_source}
        progress = Progress(total=len(train_set))
        run = Run(
            *(folder, config, encoder, decoder, optimizer, scaler, progress),
            *(team.rank == 0, balance),
        )
        if resuming:
            config["weights_used"] = read_config(run_file(folder, "config.json")).get(
                "weights_used"
            )
            run.load()
            if run.progress.total != len(train_set):
                raise UserError(
                    f"{args.list_train} names {len(train_set)} pictures, but {folder} was begun "
                    f"with {run.progress.total}"
                )

        # A broken validation file should show now rather than after an epoch.
        labelled = any([is_labelled(labels, args.num_class).any() for _, labels, _ in val_loader])
    some_labelled = any(team.gather(labelled))
    with team.agree():
        if not some_labelled:
            raise UserError(f"{args.list_val}: no label has a labelled pixel in its crop")
        show = dict(tensorboard=bool(args.tensorboard), writes=run.writes)
        monitor = Monitor(folder, args.num_epoch, args.disp_iter, team.device, **show)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    logger.info("Device: %s; precision: %s", describe_device(team.device), amp or torch.float32)
    logger.info(
        "Network: %s + %s, %.1f million parameters, %.1f GMACs a picture of %d x %d",
        *(
            args.arch_encoder,
            args.arch_decoder,
            parameters,
            giga_macs(encoder, decoder, args.imgSize),
        ),
        *(args.imgSize, args.imgSize),
    )
    if balance:
        logger.info("Class weights: %s", balance)
    if args.num_gpus > 1 and args.parallel == "dp":
        model = nn.DataParallel(model, device_ids=range(args.num_gpus))
    model = team.wrap(model)
    if args.compile:
        model.compile()

    logger.info(
        "%d training and %d validation pictures; results: %s and %s",
        *(len(train_set), len(val_set), folder, Path(args.vis) / args.id),
    )
    if resuming:
        progress = run.progress
        logger.info(
            "Going on in epoch %d after %d of its pictures", progress.epoch, progress.pictures
        )
    with StopRequest() as stop:
        train_epochs(model, train_loader, val_loader, run, classes, args, team, stop, monitor)
    logger.info(
        "Best validation mIoU: %.2f%%. To score it at several scales:", 100 * run.progress.best
    )
    logger.info(shlex.join(["python", "eval.py", "--id", args.id, "--ckpt", args.ckpt]))


def train_epochs(
    model: nn.Module,
    train_loader: DataLoader,
    val_loader: DataLoader,
    run: Run,
    classes: Classes,
    args: argparse.Namespace,
    team: Team,
    stop: StopRequest,
    monitor: Monitor,
) -> None:
    """Train to the last epoch, with validations and saves between."""
    progress, folder = run.progress, run.folder
    while progress.epoch <= args.num_epoch:
        epoch = progress.epoch
        train_one_epoch(model, train_loader, run, args, team, stop, monitor)
        lr_encoder, lr_decoder = (group["lr"] for group in run.optimizer.param_groups)
        row = {
            "epoch": epoch,
            "train_loss": progress.mean_loss,
            "train_accuracy": progress.accuracy,
            "seconds": progress.seconds,
            "lr_encoder": lr_encoder,
            "lr_decoder": lr_decoder,
        }
        suffixes = [f"_epoch_{epoch}.pth"] if epoch % args.ckpt_epoch == 0 else []
        if epoch % args.eval_epoch == 0 or epoch == args.num_epoch:
            run.save()  # so that whatever happens to the validation costs no training
            team.share_buffers(model)
            # Without DistributedDataParallel, which would wait for those that have no picture.
            network = model.module if team.size > 1 else model
            val_loss, scores = validate(
                *(network, val_loader, progress, classes, args, team, stop, monitor)
            )
            logger.info(
                "Epoch: [%d], validation: Loss: %.4f, Accuracy: %.2f%%, mIoU: %.2f%%",
                *(epoch, val_loss, 100 * scores.pixel_accuracy, 100 * scores.mean_iou),
            )
            monitor.curves(
                {
                    "loss/validation": val_loss,
                    "accuracy/validation": scores.pixel_accuracy,
                    "accuracy/mean IoU": scores.mean_iou,
                },
                progress,
            )
            row["val_loss"] = val_loss
            row["pixel_accuracy"] = scores.pixel_accuracy
            row["mean_iou"] = scores.mean_iou
            if scores.mean_iou > progress.best:
                progress.best = scores.mean_iou
                suffixes.append("_best.pth")
        if progress.replaced or progress.skipped:
            logger.info(
                "Epoch: [%d], unreadable pictures that were replaced: %d, "
                "steps that the gradient scaler skipped: %d",
                *(epoch, progress.replaced, progress.skipped),
            )
        progress.history.append(row)
        progress.next_epoch()
        run.save(*suffixes)
        if "mean_iou" in row and run.writes:
            for name, figure in history_figures(progress.history).items():
                write_whole(folder / name, figure.savefig)


def wants_sync_bn(args: argparse.Namespace, device: torch.device) -> bool:
    """Whether BatchNorm should take its statistics from the batches of all processes.

    Raises:
        UserError: it should, but cannot.
    """
    if args.sync_bn and device.type != "cuda":
        raise UserError("--sync_bn 1: PyTorch synchronises BatchNorm between GPUs only")
    few = device.type == "cuda" and args.batch_size_per_gpu < FEW_PICTURES
    return few if args.sync_bn is None else bool(args.sync_bn)


def check_gpus(num_gpus: int, device: torch.device) -> None:
    """See that there are as many GPUs as asked for.

    Raises:
        UserError: there are not.
    """
    gpus = torch.cuda.device_count()
    usable = gpus if device.type == "cuda" and not device.index else 1
    if num_gpus > usable:
        raise UserError(f"--num_gpus {num_gpus}: this machine has {gpus} GPUs; use {usable}")


def check_compiler(args: argparse.Namespace, device: torch.device) -> None:
    """See that --compile can work, on something small.

    Raises:
        UserError: it cannot.
    """
    if args.num_gpus > 1 or args.grad_checkpoint:
        raise UserError("--compile 1 goes with --num_gpus 1 and --grad_checkpoint 0 only")
    try:
        torch.compile(torch.neg)(torch.zeros(1, device=device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"--compile 1: torch cannot compile here ({reason}); leave it out"
        ) from error


if __name__ == "__main__":
    run_script(main, ModelError)
