"""The networks that the later reference (mit-semseg, 2020) trained on ADE20K and published.

Each becomes an ordinary run the first time that it is asked for.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from common.classes import ADE20K
from common.files import check_writable, is_filled, made_aside, tensors, text, write_together
from models import ModelBuilder, ModelError
from models.weights import (
    PRETRAINED,
    SYNC_BN,
    Fingerprint,
    fetch,
    load_strictly,
    read_state,
    without,
)
from utils import UserError

# Without checksums, and by http only: its certificate is another server's.
REFERENCE = "http://sceneparsing.csail.mit.edu/model/pytorch"
OPEN_MODEL_ZOO = "https://storage.openvinotoolkit.org/repositories/open_model_zoo/public/2022.1"
SUFFIX = "_best.pth"  # the scripts' default


@dataclass(frozen=True)
class Published:
    """A published network: a pair of files, and the scores that its authors give it.

    Attributes:
        encoder, decoder: names of the architectures.
        epoch: number in the names of the files.
        one_scale, five_scales: mean IoU and pixel accuracy on ADE20K's validation pictures, %.
        mirror: another address of the same files, if there is one.
        fingerprints: what is known of the files, by part.
    """

    encoder: str
    decoder: str
    epoch: int
    one_scale: tuple[float, float]
    five_scales: tuple[float, float]
    mirror: str = ""
    fingerprints: Mapping[str, Fingerprint] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Its name as a run, and as a folder of the reference's server."""
        return f"ade20k-{self.encoder}-{self.decoder}"

    @property
    def addresses(self) -> list[str]:
        """The folders that have the files, best first."""
        return [f"{REFERENCE}/{self.id}", *([self.mirror] if self.mirror else [])]

    @property
    def by_hand(self) -> Path:
        """The folder from which files are taken that one has put there."""
        return PRETRAINED / self.id

    def load(self, part: str, module: nn.Module, folder: Path) -> str:
        """Load one of the files, from `by_hand` or else by download.

        Args:
            part: "encoder" or "decoder".
            module: the network's part, changed in place.
            folder: where a download goes.

        Returns:
            The path or the address that it came from.

        Raises:
            ModelError: it cannot be had, or the file put there is another.
        """
        name = f"{part}_epoch_{self.epoch}.pth"
        fingerprint = self.fingerprints.get(part)
        path = self.by_hand / name
        if path.exists():
            if fingerprint:
                fingerprint.check(path)
            self.load_file(module, path, str(path))
            return str(path)
        failures = []
        for address in self.addresses:
            url = f"{address}/{name}"
            try:
                fetch(url, folder / name, fingerprint)
                self.load_file(module, folder / name, url)
                return url
            except ModelError as error:
                failures.append(str(error))
        raise ModelError(
            f"{'; '.join(failures)}. To do without, put encoder_epoch_{self.epoch}.pth and "
            f"decoder_epoch_{self.epoch}.pth into {self.by_hand}"
        )

    def load_file(self, module: nn.Module, path: Path, origin: str) -> None:
        """Load a file without SyncBN's own buffers; that it fits tells that it is the right one.

        Raises:
            ModelError: it cannot be read, or is another.
        """
        state = without(read_state(path), SYNC_BN)
        load_strictly(module, state, f"{origin} does not fit {self.id}")


PUBLISHED = {
    network.id: network
    for network in (
        Published("mobilenetv2dilated", "c1_deepsup", 20, (32.39, 75.75), (33.84, 76.80)),
        Published("resnet18dilated", "c1_deepsup", 20, (33.82, 76.05), (35.34, 77.41)),
        Published("resnet18dilated", "ppm_deepsup", 20, (38.00, 78.64), (38.81, 79.29)),
        Published("resnet50dilated", "ppm_deepsup", 20, (41.26, 79.73), (42.14, 80.13)),
        Published("resnet101dilated", "ppm_deepsup", 25, (42.19, 80.59), (42.53, 80.91)),
        Published("resnet50", "upernet", 30, (40.44, 79.80), (41.55, 80.23)),
        Published("resnet101", "upernet", 50, (42.00, 80.79), (42.66, 81.01)),
        Published(
            "hrnetv2",
            "c1",
            30,
            (42.03, 80.77),
            (43.20, 81.47),
            f"{OPEN_MODEL_ZOO}/hrnet-v2-c1-segmentation",
            # As the mirror's owner, OpenVINO's Open Model Zoo, publishes them in its model.yml.
            {
                "encoder": Fingerprint(
                    262_518_297,
                    "e01539688455d218c189c41381f58e2d1e6383d7dad057cc"
                    "921cada06fb3c0f014f6f72e7a44e4a082356d98417fddfb",
                ),
                "decoder": Fingerprint(
                    4_780_389,
                    "943a8e1974c5f678fec59b3eb5d5859c9c95f82be607f10a"
                    "ac5261730d2e813274440b177970fb55a08f29f2bc5bdf89",
                ),
            },
        ),
    )
}


def make_run(network: Published, folder: Path) -> None:
    """Make a folder the run of a published network, as if it had been trained here.

    Raises:
        UserError, ModelError: the files cannot be had, or the folder holds something else.
    """
    check_writable("--ckpt", folder)
    if is_filled(folder) and not (folder / f"encoder{SUFFIX}").exists():
        raise UserError(f"--id {network.id}: {folder} holds something else; move it away")
    with made_aside(folder) as aside:
        files = downloaded(network, aside / "files")
        shutil.rmtree(aside / "files", ignore_errors=True)
        write_together(aside, files)


def downloaded(network: Published, folder: Path) -> dict:
    """The files of a published network's run, for `write_together`; downloads go to a folder."""
    encoder = ModelBuilder.build_encoder(network.encoder, weights="none")
    decoder = ModelBuilder.build_decoder(network.decoder, encoder.channels, ADE20K["num_class"])
    origin = network.load("encoder", encoder, folder)
    network.load("decoder", decoder, folder)
    config = {
        "id": network.id,
        "arch_encoder": network.encoder,
        "arch_decoder": network.decoder,
        "fc_dim": encoder.fc_dim,
        **ADE20K,
        "weights_used": origin,
    }
    return {
        "config.json": text(json.dumps(config, indent=2) + "\n"),
        f"encoder{SUFFIX}": tensors(encoder.state_dict()),
        f"decoder{SUFFIX}": tensors(decoder.state_dict()),
    }
