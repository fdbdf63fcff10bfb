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
        run_id: a name; the path of a run's folder anywhere, with its `config.json`; or
            hf:OWNER/NAME, which is a run in `ckpt`, downloaded by `find_run`.

    Raises:
        UserError: it should be on a hub, and is no address.
    """
    if run_id.startswith(HUB_PREFIX):
        return ckpt, hub_name(run_id)
    if Path(run_id).name != run_id and os.path.isfile(os.path.join(run_id, "config.json")):
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
