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
import math
import os
import shlex
import signal
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while modules load

import torch

from common.augmentation import Augmentation
from common.classes import read_classes
from common.devices import describe_device, select_amp
from common.distributed import World, is_launched, launch
from common.files import check_writable, saved_file
from common.loader import make_loader
from common.runs import run_folder
from dataset import EpochSampler, TrainDataset, ValDataset
from models import ModelBuilder, ModelError, SegmentationModel
from models.cost import giga_macs
from models.depthwise import speed_up_gradients
from models.loss import CrossEntropy
from models.sync_batchnorm import synchronise
from training.class_weights import find_class_weights
from training.options import parse_args
from training.owner import own
from training.startup_checks import (
    check_gpus,
    check_settings,
    check_validation,
    check_warmup,
    should_resume,
)
from training.trainer import Trainer, TrainingData
from utils import UserError, run_script

logger = logging.getLogger("train")

SMALL_BATCH = 16  # pictures of a process; fewer make statistics that are too noisy for BatchNorm


def main() -> None:
    """Train in this process, or start one for each GPU."""
    args = parse_args(__doc__.splitlines()[0])
    if args.num_gpus > 1 and args.parallel == "ddp" and not is_launched():
        check_gpus(args.num_gpus, args.device)
        launch(args.num_gpus)
        return
    world = World(args.device, args.timeout)
    with world.explain_lost_connections():
        train(args, world)
    world.close()


def train(args: argparse.Namespace, world: World) -> None:
    """Train, as one of the processes of a job, which holds the run's folder meanwhile."""
    with ExitStack() as held:
        with world.fail_together():
            folder = run_folder(args.ckpt, args.id)
            check_writable("--ckpt", folder)
            if world.is_main:
                held.enter_context(own(folder))
        train_owned(args, world)


def train_owned(args: argparse.Namespace, world: World) -> None:
    """Train in a folder that belongs to this job: data, model, trainer, fit."""
    resuming = should_resume(args, world)
    check_settings(args, world, resuming)
    choose_kernels(bool(args.deterministic))
    data = build_data(args, world, resuming)
    check_warmup(args, world, args.num_epoch * math.ceil(len(data.sampler) / args.accumulate))
    network = build_network(args, world, data, resuming)
    with world.fail_together():
        trainer = Trainer(args, network, data, world)
        if resuming:
            trainer.resume()
    check_validation(args, world, data.val)
    log_settings(args, world, data, network)
    if resuming:
        logger.info(
            "Going on in epoch %d after %d of its pictures",
            trainer.progress.epoch,
            trainer.progress.pictures,
        )
    trainer.fit()
    best = 100 * trainer.progress.best
    logger.info("Best validation mIoU: %.2f%%. To score it at several scales:", best)
    logger.info(shlex.join(["python", "eval.py", "--id", args.id, "--ckpt", args.ckpt]))


def choose_kernels(deterministic: bool) -> None:
    """Let cuDNN take the fastest kernels for the one size of all crops, or deterministic ones.

    Without --amp, convolutions take TF32 where a GPU has it, as is torch's default; the head never.
    """
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True, warn_only=True)


def build_data(args: argparse.Namespace, world: World, resuming: bool) -> TrainingData:
    """Classes, their weights, and the loaders of this process's share of the pictures.

    Raises:
        UserError: a list, a class table or files that they name are missing or damaged.
    """
    with world.fail_together():
        classes = read_classes(args.list_class, args.num_class)
        settings = {
            "root_img": args.root_img,
            "root_seg": args.root_seg,
            "num_class": args.num_class,
            "label_offset": args.label_offset,
            "imgSize": args.imgSize,
            "segSize": args.segSize,
        }
        names = (field.name for field in fields(Augmentation))
        augmentation = Augmentation(**{name: getattr(args, name) for name in names})
        train_set = TrainDataset(
            args.list_train, **settings, seed=args.seed, augmentation=augmentation
        )
        val_set = ValDataset(args.list_val, **settings, limit=args.num_val)
        batch_size = args.batch_size_per_gpu * (args.num_gpus if args.parallel == "dp" else 1)
        sampler = EpochSampler(len(train_set), batch_size, args.seed, world.rank, world.size)
        share = range(world.rank, len(val_set), world.size)
        pin = world.device.type == "cuda"
        train = make_loader(train_set, args.workers, batch_sampler=sampler, pin_memory=pin)
        val = make_loader(val_set, args.workers, batch_size, share, pin_memory=pin)
        source = args.class_weight
        if resuming and source != "none":  # the run has its own, whatever became of the source
            source = saved_file(run_folder(args.ckpt, args.id), "class_weight.csv")
    class_weights = find_class_weights(source, train_set, classes.names, args.workers, world)
    return TrainingData(train, sampler, val, classes, class_weights)


def build_network(
    args: argparse.Namespace, world: World, data: TrainingData, resuming: bool
) -> SegmentationModel:
    """The network on the device, with its initial weights.

    Raises:
        UserError, ModelError: there is no such network, or its weights cannot be had.
    """
    with world.fail_together():
        torch.manual_seed(args.seed)
        # A resumed run has weights, and the other processes get the main process's.
        initial = world.is_main and not resuming
        encoder = ModelBuilder.build_encoder(
            args.arch_encoder,
            args.fc_dim,
            args.weights_encoder if initial else "none",
            args.drop_path,
        )
        encoder.grad_checkpoint = bool(args.grad_checkpoint)
        decoder = ModelBuilder.build_decoder(
            args.arch_decoder,
            encoder.channels,
            args.num_class,
            args.segSize,
            args.weights_decoder if initial else "",
        )
        weights = data.class_weights
        weight = torch.from_numpy(weights.weight).float() if weights else None
        if args.logit_adjust and (weight is None or not weight.all()):
            raise UserError("--logit_adjust needs a --class_weight, without a weight of 0")
        options = args.label_smoothing, args.ohem_thresh, args.logit_adjust
        loss = CrossEntropy(weight, *options)
        amp = select_amp(args.amp, world.device)
        network = SegmentationModel(encoder, decoder, amp, loss, args.deepsup_scale)
        network.to(world.device)
        if world.size > 1 and wants_sync_bn(args):
            synchronise(network)
        if world.device.type == "cpu":
            speed_up_gradients(network)
    return network


def log_settings(
    args: argparse.Namespace, world: World, data: TrainingData, network: SegmentationModel
) -> None:
    """Log what is going to be trained, on what, and where the results go."""
    precision = network.amp or torch.float32
    logger.info("Device: %s; precision: %s", describe_device(world.device), precision)
    logger.info(
        "Network: %s + %s, %.1f million parameters, %.1f GMACs a picture of %d x %d",
        args.arch_encoder,
        args.arch_decoder,
        sum(p.numel() for p in network.parameters()) / 1e6,
        giga_macs(network.encoder, network.decoder, args.imgSize),
        args.imgSize,
        args.imgSize,
    )
    if data.class_weights:
        logger.info("Class weights: %s", data.class_weights)
    logger.info(
        "%d training and %d validation pictures; results: %s and %s",
        data.sampler.length,
        len(data.val.dataset),  # type: ignore[arg-type]
        run_folder(args.ckpt, args.id),
        Path(args.vis) / args.id,
    )


def wants_sync_bn(args: argparse.Namespace) -> bool:
    """Whether BatchNorm should take its statistics from the batches of all processes."""
    small = args.batch_size_per_gpu < SMALL_BATCH
    return small if args.sync_bn is None else bool(args.sync_bn)


if __name__ == "__main__":
    run_script(main, ModelError)
