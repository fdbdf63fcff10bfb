"""What a training must not swallow: pictures that cannot be read, losses that are not finite."""

import logging

from checkpoint import Progress
from distributed import Team
from utils import UserError, few

logger = logging.getLogger(__name__)

MAX_UNREADABLE = 0.01  # share of an epoch's pictures
MAX_SKIPPED = 50  # steps in a row; a scale that starts far too high is right after twenty


def count_unreadable(defects: list[str], progress: Progress, team: Team) -> None:
    """Count pictures that were replaced, and name each once; all processes call this at a time.

    Args:
        defects: why this process's pictures could not be read.

    Raises:
        UserError: they are too many.
    """
    for defect in [defect for part in team.gather(defects) for defect in part]:
        progress.replaced += 1
        if defect not in progress.unreadable:
            progress.unreadable.append(defect)
            logger.warning("Replaced by another picture: %s", defect)
    with team.agree():
        if progress.replaced > MAX_UNREADABLE * progress.total:
            raise UserError(
                f"more than {MAX_UNREADABLE:.0%} of the {progress.total} pictures of epoch "
                f"{progress.epoch} cannot be read: {few(progress.unreadable, '; ')}"
            )


def refuse_loss(loss: float, names: list[str], progress: Progress, team: Team) -> None:
    """End a training whose loss is not finite, before a step is made of it.

    Args:
        loss: of all processes together.
        names: the pictures of this process if it is their loss that is not finite, else none.

    Raises:
        UserError: always, in one of the processes; SystemExit in the others.
    """
    pictures = few([name for part in team.gather(names) for name in part])
    with team.agree():
        raise UserError(
            f"the loss is {loss} in epoch {progress.epoch} after {progress.pictures} of its "
            f"pictures, at {pictures}: lower --lr_encoder and --lr_decoder; what was saved stays"
        )


def count_skipped(skipped: bool, progress: Progress) -> None:
    """Count the steps that the gradient scaler leaves out because a gradient overflowed.

    Raises:
        UserError: it does nothing else any more.
    """
    progress.skipped += skipped
    progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if skipped else 0
    if progress.skipped_in_a_row > MAX_SKIPPED:
        raise UserError(
            f"the gradients of {MAX_SKIPPED} steps in a row are not finite in epoch "
            f"{progress.epoch}: lower --lr_encoder and --lr_decoder, or train with --amp off"
        )
