"""Runs that others share on huggingface.co, as `export.py --format safetensors` writes them."""

import shutil
from pathlib import Path

from common.files import check_writable, is_filled, made_aside
from common.names import HUB_FOLDERS, HUB_PREFIX
from utils import UserError

# Nothing in these can be run. A page and scores are for people.
FILES = ("config.json", "classes.csv", "*.safetensors", "scores.json", "README.md")


def fetch_run(run_id: str, folder: Path) -> None:
    """Download a shared run into its folder, whole or not at all.

    Args:
        run_id: as `hub_name` gives it.
        folder: of the run.

    Raises:
        UserError: it cannot be had, or is no run.
    """
    address = run_id.removeprefix(HUB_FOLDERS).replace("--", "/", 1)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f"{HUB_PREFIX}{address} needs a package: pip install huggingface_hub"
        ) from error
    check_writable("--ckpt", folder)
    if is_filled(folder):
        raise UserError(f"--id {run_id}: {folder} holds something else; move it away")
    with made_aside(folder) as aside:
        try:
            snapshot_download(address, allow_patterns=list(FILES), local_dir=aside)
        except Exception as error:  # the package has a dozen kinds of its own
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{HUB_PREFIX}{address} cannot be downloaded: {reason}") from error
        shutil.rmtree(aside / ".cache", ignore_errors=True)  # the package's own notes
        if not list(aside.glob("encoder_*.safetensors")) or not (aside / "config.json").exists():
            raise UserError(
                f"{HUB_PREFIX}{address} holds no run, as export.py --format safetensors makes them"
            )
