"""Guards against pictures that cannot be read and numbers that are not finite."""

import logging
from collections.abc import Sequence

from torch import Tensor, nn

from common.distributed import World
from training.checkpoint import Checkpoint, Progress
from utils import UserError, abbreviate

logger = logging.getLogger(__name__)

MAX_UNREADABLE = 0.01  # share of an epoch's pictures
MAX_SKIPPED = 50  # steps in a row; a scale that starts far too high is right after twenty


def count_unreadable(defects: list[str], progress: Progress, world: World) -> None:
    """Count replaced pictures and name each once. All processes call this together.

    Args:
        defects: why this process's pictures could not be read.
        progress: of the training; it keeps the counts.
        world: the processes.
    """
    for defect in [defect for part in world.all_gather(defects) for defect in part]:
        progress.replaced += 1
        if defect not in progress.unreadable:
            progress.unreadable.append(defect)
            logger.warning("Replaced by another picture: %s", defect)


def refuse_unreadable(checkpoint: Checkpoint, world: World) -> None:
    """End an epoch with too many replaced pictures. All processes call this together.

    Training so far is saved, and a resumed run may meet as many again: it can always go on.

    Raises:
        UserError: too many could not be read.
    """
    progress = checkpoint.progress
    if progress.replaced - progress.forgiven > MAX_UNREADABLE * progress.total:
        if progress.seen:
            checkpoint.save()
        with world.fail_together():
            raise UserError(
                f"more than {MAX_UNREADABLE:.0%} of the {progress.total} pictures of epoch "
                f"{progress.epoch} cannot be read: {abbreviate(progress.unreadable, '; ')}; mend "
                "them, or go on without them by --resume"
            )


def refuse_loss(loss: float, place: str, names: list[str], world: World) -> None:
    """End a training whose loss is not finite, and has not changed the weights.

    Args:
        loss: of all processes together.
        place: of the step in the training, in words.
        names: this process's pictures if its own loss is not finite, else none.
        world: the processes.

    Raises:
        UserError: always, in one of the processes; SystemExit in the others.
    """
    pictures = abbreviate([name for part in world.all_gather(names) for name in part])
    with world.fail_together():
        raise UserError(
            f"the loss is {loss} in {place}, at {pictures}: lower --lr_encoder and --lr_decoder; "
            "what was saved stays"
        )


def batch_statistics(network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The running statistics of BatchNorm, each with a copy, for `restore`."""
    return [(buffer, buffer.clone()) for buffer in network.buffers()]


def restore(statistics: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Undo what a step did to running statistics: its activations overflowed."""
    for buffer, copy in statistics:
        buffer.copy_(copy)


def count_skipped(skipped: bool, progress: Progress) -> None:
    """Count a step that the gradient scaler skipped because a gradient overflowed.

    Raises:
        UserError: the scaler has skipped too many steps in a row.
    """
    progress.skipped += skipped
    progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if skipped else 0
    if progress.skipped_in_a_row > MAX_SKIPPED:
        raise UserError(
            f"the gradients of {MAX_SKIPPED} steps in a row are not finite in epoch "
            f"{progress.epoch}: lower --lr_encoder and --lr_decoder, or train with --amp off"
        )
