"""What --id may be. It knows no torch, as flags are parsed before that is loaded."""

import os
import re
from pathlib import Path

from utils import UserError

HUB_PREFIX = "hf:"  # of a run that others share on huggingface.co
HUB_FOLDERS = "hf--"  # what the names of such runs' folders begin with
HUB_ADDRESS = re.compile(r"[\w.-]+/[\w.-]+")


def locate(ckpt: str, run_id: str) -> tuple[str, str]:
    """The folder of runs and the name in it of what --id names.

    Args:
        ckpt: the folder of runs.
        run_id: a name; the path of a run's folder anywhere; or hf:OWNER/NAME, which is a run in
            `ckpt`, downloaded by `find_run`.

    Raises:
        UserError: it is none of these.
    """
    if run_id.startswith(HUB_PREFIX):
        return ckpt, hub_name(run_id)
    separators = os.sep + (os.altsep or "")
    if any(separator in run_id for separator in separators) and os.path.isdir(run_id):
        folder = Path(run_id).resolve()
        return str(folder.parent), folder.name
    return ckpt, run_id


def hub_name(run_id: str) -> str:
    """The name as a run of what --id calls hf:OWNER/NAME.

    Raises:
        UserError: that is no address.
    """
    address = run_id.removeprefix(HUB_PREFIX)
    if not HUB_ADDRESS.fullmatch(address):
        raise UserError(f"--id {run_id!r:.80} should be hf:OWNER/NAME, as in the page's address")
    return HUB_FOLDERS + address.replace("/", "--")
