"""Train a network for semantic segmentation.

    python train.py                                    # ADE20K, resnet34_dilated8 + c1_bilinear
    python train.py --arch_encoder resnet50_dilated8 --arch_decoder psp_bilinear --num_gpus 4
    python train.py --id mine --num_class 11 --list_train mine/train.txt --list_val mine/val.txt \\
        --root_img mine/images --root_seg mine/annotations

A run lives in CKPT/ID: settings, weights, history and curves; its panels are in VIS/ID.
"""

import argparse
import math
import shlex
import time
from pathlib import Path

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from checkpoint import check_writable, new_run, save_config, save_history, save_weights
from classes import Classes, read_classes
from dataset import EpochSampler, TrainDataset, ValDataset, make_loader
from inference import MIN_SIDE
from models import ModelBuilder, ModelError, SegmentationModel
from models.upsample import upsample_argmax, upsample_cross_entropy
from options import Parser, positive, within
from utils import (
    AverageMeter,
    ConfusionMatrix,
    Scores,
    UserError,
    is_labelled,
    result_names,
    run_script,
    select_amp,
    select_device,
)
from visualize import panel, plot_history

NUM_PANELS = 4  # validation pictures that are drawn at every validation


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__.splitlines()[0])
    parser.shared("id", help="name of the run (default: composed from the settings)")
    parser.shared("arch_encoder", "arch_decoder")
    parser.add_argument(
        "--weights_encoder",
        default="",
        help="initial weights: places365, imagenet, none or a file; '' = what there is of these",
    )
    parser.add_argument(
        "--weights_decoder", default="", help="initial weights: a file, '' = random"
    )
    parser.shared("fc_dim")

    parser.add_argument(
        "--list_train",
        default="./data/ADE20K_object150_train.txt",
        help="training pictures, relative to ROOT_IMG, one a line",
    )
    parser.shared("list_val", "root_img", "root_seg")

    parser.add_argument(
        "--num_gpus", type=positive, default=1, help="GPUs to use, if there are any"
    )
    parser.add_argument(
        "--batch_size_per_gpu",
        type=positive,
        default=16,
        help="pictures a GPU (or the CPU) and step",
    )
    parser.add_argument("--num_epoch", type=positive, default=100, help="epochs to train for")
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
        "--fix_bn", type=int, default=0, choices=(0, 1), help="1 = freeze BatchNorm as it is"
    )

    parser.shared("num_val", default=128)
    parser.shared("workers")
    parser.add_argument(
        "--imgSize", type=within(int, MIN_SIDE), default=384, help="side of the pictures' crops"
    )
    parser.add_argument("--segSize", type=positive, default=384, help="side of the labels' crops")
    parser.shared("num_class", "list_class", "device", "amp")
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
    parser.add_argument("--seed", type=within(int, 0, 2**63), default=1234, help="random seed")
    parser.shared("ckpt")
    parser.add_argument("--vis", default="./vis", help="folder of the validation panels")
    parser.add_argument("--disp_iter", type=positive, default=20, help="iterations between lines")
    parser.add_argument("--eval_epoch", type=positive, default=1, help="epochs between validations")
    parser.add_argument(
        "--ckpt_epoch", type=positive, default=10, help="epochs between kept weights"
    )

    args = parser.parse_args()
    args.id = args.id or (
        f"baseline-{args.arch_encoder}-{args.arch_decoder}-ngpus{args.num_gpus}"
        f"-batchSize{args.num_gpus * args.batch_size_per_gpu}"
        f"-imgSize{args.imgSize}-segSize{args.segSize}"
        f"-lr_encoder{args.lr_encoder}-lr_decoder{args.lr_decoder}"
        f"-epoch{args.num_epoch}-decay{args.weight_decay}"
    )
    return args


def main() -> None:
    args = parse_args()
    device = select_device(args.device)
    gpus = torch.cuda.device_count()
    usable = gpus if device.type == "cuda" and not device.index else 1
    if args.num_gpus > usable:
        raise UserError(
            f"--num_gpus {args.num_gpus}: this machine has {gpus} GPUs; use --num_gpus {usable}"
        )
    if args.fix_bn and args.weights_encoder == "none":
        raise UserError("--fix_bn 1: BatchNorm of --weights_encoder none has yet to learn")
    folder, vis = new_run(args.ckpt, args.id), Path(args.vis) / args.id
    check_writable("--ckpt", folder)
    check_writable("--vis", vis)
    if args.compile:
        check_compiler(args, device)
    classes = read_classes(args.list_class, args.num_class)
    torch.manual_seed(args.seed)
    # All crops are of one size: worth finding what is best for it. Without --amp, convolutions take
    # TF32 where a GPU has it, as is torch's default, while the head stays in single precision.
    torch.backends.cudnn.benchmark = True

    data = dict(root_img=args.root_img, root_seg=args.root_seg, num_class=args.num_class)
    crop = dict(imgSize=args.imgSize, segSize=args.segSize)
    train_set = TrainDataset(args.list_train, **data, **crop, seed=args.seed)
    val_set = ValDataset(args.list_val, **data, **crop, limit=args.num_val)
    sampler = EpochSampler(len(train_set), args.seed)
    batch_size = args.num_gpus * args.batch_size_per_gpu
    train_loader = make_loader(train_set, args.workers, batch_size=batch_size, sampler=sampler)
    val_loader = make_loader(val_set, args.workers, batch_size=batch_size)

    encoder = ModelBuilder.build_encoder(args.arch_encoder, args.fc_dim, args.weights_encoder)
    encoder.grad_checkpoint = bool(args.grad_checkpoint)
    decoder = ModelBuilder.build_decoder(
        args.arch_decoder, encoder.fc_dim, args.num_class, args.segSize, args.weights_decoder
    )
    amp = select_amp(args.amp, device)
    model: nn.Module = SegmentationModel(encoder, decoder, amp).to(device)
    if args.num_gpus > 1:
        model = nn.DataParallel(model, device_ids=range(args.num_gpus))
    if args.compile:
        model.compile()
    scaler = GradScaler(device.type, enabled=amp == torch.float16)
    optimizer = make_optimizer(args, encoder, decoder, fused=not scaler.is_enabled())

    # A broken validation file should show now rather than after an epoch.
    labelled = [is_labelled(labels, args.num_class).any() for _, labels, _ in val_loader]
    if not any(labelled):
        raise UserError(f"{args.list_val}: no label has a labelled pixel in its crop")

    config = {**vars(args), "fc_dim": encoder.fc_dim, "weights_used": encoder.weights_source}
    print(f"{len(train_set)} training and {len(val_set)} validation pictures; results: {folder}")
    history: list[dict[str, float]] = []
    best = -1.0
    for epoch in range(1, args.num_epoch + 1):
        sampler.epoch = epoch
        start = time.time()
        train_loss = train_one_epoch(model, train_loader, optimizer, scaler, epoch, args, device)
        if not math.isfinite(train_loss):
            raise UserError(
                f"the loss of epoch {epoch} is {train_loss}: lower --lr_encoder and --lr_decoder; "
                f"weights up to epoch {epoch - 1} stay in {folder}"
            )
        row = {"epoch": epoch, "train_loss": train_loss, "seconds": time.time() - start}
        save_weights(folder, "_latest.pth", encoder, decoder)
        if epoch == 1:
            save_config(folder, config)
        if epoch % args.ckpt_epoch == 0:
            save_weights(folder, f"_epoch_{epoch}.pth", encoder, decoder)

        if epoch % args.eval_epoch == 0 or epoch == args.num_epoch:
            val_loss, scores = validate(model, val_loader, epoch, classes, vis, device)
            print(
                f"Epoch: [{epoch}], validation: Loss: {val_loss:.4f}, "
                f"Accuracy: {scores.pixel_accuracy:.2%}, mIoU: {scores.mean_iou:.2%}"
            )
            row["val_loss"] = val_loss
            row["pixel_accuracy"] = scores.pixel_accuracy
            row["mean_iou"] = scores.mean_iou
            if scores.mean_iou > best:
                best = scores.mean_iou
                save_weights(folder, "_best.pth", encoder, decoder)
        history.append(row)
        save_history(folder, history)
        plot_history(history, folder)

    print(f"Best validation mIoU: {best:.2%}. To score the best weights at several scales:")
    print(shlex.join(["python", "eval.py", "--id", args.id, "--ckpt", args.ckpt]))


def train_one_epoch(
    model: nn.Module,
    loader: DataLoader,
    optimizer: Optimizer,
    scaler: GradScaler,
    epoch: int,
    args: argparse.Namespace,
    device: torch.device,
) -> float:
    """Train on every picture once; returns the mean loss."""
    model.train()
    if args.fix_bn:
        freeze_batchnorm(model)
    losses, data_time, step_time = AverageMeter(), AverageMeter(), AverageMeter()
    start = time.time()
    for i, (images, labels, _) in enumerate(loader):
        data_time.update(time.time() - start)
        images = images.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)

        progress = (epoch - 1 + i / len(loader)) / args.num_epoch
        adjust_learning_rates(optimizer, (1 - progress) ** args.lr_pow)
        loss = model(images, labels).mean()  # over the GPUs
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

        losses.update(loss.detach(), len(images))
        step_time.update(time.time() - start)
        start = time.time()
        if i % args.disp_iter == 0:
            lr_encoder, lr_decoder = (group["lr"] for group in optimizer.param_groups)
            print(
                f"Epoch: [{epoch}][{i}/{len(loader)}], "
                f"Time: {step_time.average:.2f}, Data: {data_time.average:.2f}, "
                f"lr_encoder: {lr_encoder:.6f}, lr_decoder: {lr_decoder:.6f}, "
                f"Loss: {losses.average:.4f}"
            )
    return losses.average


@torch.inference_mode()
def validate(
    model: nn.Module,
    loader: DataLoader,
    epoch: int,
    classes: Classes,
    folder: Path,
    device: torch.device,
) -> tuple[float, Scores]:
    """Mean loss and scores on the validation crops; draws panels of the first few into `folder`."""
    model.eval()
    losses, confusion, shown = AverageMeter(), ConfusionMatrix(len(classes.names), device), []
    for images, labels, names in loader:
        images, labels = images.to(device), labels.to(device)
        logits = model(images)
        predictions = upsample_argmax(logits, labels.shape[-2:])
        losses.update(upsample_cross_entropy(logits, labels), len(images))
        confusion.update(predictions, labels)
        if len(shown) < NUM_PANELS:
            shown += zip(names, images.cpu(), labels.cpu(), predictions.cpu(), strict=True)
    folder.mkdir(parents=True, exist_ok=True)
    results = result_names([name for name, *_ in shown])
    for name, image, *maps in shown[:NUM_PANELS]:
        picture = image.permute(1, 2, 0).numpy()
        figure = panel(picture, [labels.numpy() for labels in maps], classes)
        figure.save(folder / f"{results[name]}_epoch_{epoch:03d}.png")
    return losses.average, confusion.scores()


def adjust_learning_rates(optimizer: Optimizer, factor: float) -> None:
    """Set the rates to a fraction of what they were initially."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


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


def freeze_batchnorm(model: nn.Module) -> None:
    """Keep BatchNorm's statistics and its scale and shift as they are."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.requires_grad_(False)


def make_optimizer(
    args: argparse.Namespace, encoder: nn.Module, decoder: nn.Module, fused: bool = True
) -> Optimizer:
    """The optimiser, with a learning rate for the encoder and one for the decoder.

    `fused` updates all parameters in one go; but where a gradient scaler skips the first step,
    fused SGD would go on from a momentum that was never set.
    """
    groups = [
        {"params": encoder.parameters(), "initial_lr": args.lr_encoder},
        {"params": decoder.parameters(), "initial_lr": args.lr_decoder},
    ]
    if args.optim == "SGD":
        momentum = args.beta1
        return torch.optim.SGD(
            groups, momentum=momentum, weight_decay=args.weight_decay, fused=fused
        )
    betas = (args.beta1, 0.999)
    optimizer = getattr(torch.optim, args.optim)
    return optimizer(groups, betas=betas, weight_decay=args.weight_decay, fused=fused)


if __name__ == "__main__":
    run_script(main, ModelError)
