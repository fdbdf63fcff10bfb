"""Damaged and foreign pictures and labels: each must be decoded or refused.

A process of its own reads them, so that a crash, a hang or too much memory shows from outside. The
same seed makes the same files.
"""

import io
import logging
import multiprocessing
import os
import random
import resource
import struct
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

from common.images import MAX_PIXELS, PNG_SIGNATURE, read_label, read_picture
from common.loader import prepare_worker
from utils import LONGEST_ERROR, UserError

NUM_CLASS = 20
HANG_SECONDS = 60  # to read a file; the largest that is allowed takes two
ADAM7 = (  # first row and column of each pass, and the steps between rows and columns
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)
EXTRA_MEMORY = 4 * 2**30  # bytes of address space that reading may take
DECODED, REFUSED = "decoded", "refused"

logger = logging.getLogger(__name__)


def run(count: int, seed: int) -> list[tuple[str, int, int, int]]:
    """Read `count` damaged files, and log those that are lost.

    A file counts as survived if it is decoded to an array of the right type, shape and values, or
    refused with a `UserError` of one line that names it. Some kinds of fault allow only one of the
    two. It counts as lost after any other exception, a hang, or the death of the reading process.

    Returns:
        Rows (kind of fault, injected, survived, lost).
    """
    kinds = list(FAULTS)
    injected: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, Reader() as reader:
        for number in range(count):
            kind = kinds[number % len(kinds)]
            make, allowed = FAULTS[kind]
            content, is_label = make(random.Random(f"{seed} {number}"))
            path = Path(folder) / ("label.png" if is_label else "picture.jpg")
            path.write_bytes(content)
            outcome = reader.read(path)
            injected[kind] += 1
            if outcome not in allowed:
                lost[kind] += 1
                logger.error("file %d of seed %d, %s: %s", number, seed, kind, outcome)
    return [(kind, injected[kind], injected[kind] - lost[kind], lost[kind]) for kind in kinds]


class Reader:
    """A process that reads files, replaced by a new one where it hangs or dies."""

    def __enter__(self) -> "Reader":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process."""
        # Not forked: the process would begin with the caller's memory, which would count.
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def stop(self) -> None:
        """Kill the process, and wait until it has ended."""
        self.process.kill()
        self.process.join()
        self.connection.close()

    def read(self, path: Path) -> str:
        """What reading a file leads to: `DECODED`, `REFUSED`, or how the file was lost."""
        outcome = f"no answer in {HANG_SECONDS} seconds"
        try:
            self.connection.send(path)
            if self.connection.poll(HANG_SECONDS):
                return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            outcome = f"the process ended with {self.process.exitcode}"
        self.stop()
        self.start()
        return outcome


def serve(connection: Connection) -> None:
    """Read the files whose paths arrive, with bounded memory, and send back the outcomes."""
    prepare_worker(0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # discards the decoders' messages
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + EXTRA_MEMORY, most))
    while True:
        connection.send(outcome_of(connection.recv()))


def address_space() -> int:
    """Bytes of address space that this process has; 0 if the system does not report them."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def outcome_of(path: Path) -> str:
    """Read a file; returns `DECODED`, `REFUSED`, or what was wrong."""
    try:
        if path.suffix == ".png":
            label = read_label(path, NUM_CLASS)
            known = (label < NUM_CLASS) | (label == 255)
            fine = label.ndim == 2 and label.dtype == np.uint8 and known.all()
            size = label.size
        else:
            picture = read_picture(path)
            fine = picture.shape[2:] == (3,) and picture.dtype == np.uint8
            size = picture.size // 3
        return DECODED if fine and 0 < size <= MAX_PIXELS else "decoded to something else"
    except UserError as error:
        line = str(error)
        fine = line.isprintable() and str(path) in line and len(line) <= LONGEST_ERROR
        return REFUSED if fine else f"refused with {line!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


File = tuple[bytes, bool]  # content, whether it is a label


def good_file(rng: random.Random) -> File:
    """An undamaged picture or label in one of the known formats, 16 to 96 pixels a side."""
    values = np.random.default_rng(rng.getrandbits(32))
    height, width = rng.randint(16, 96), rng.randint(16, 96)
    picture = Image.fromarray(values.integers(0, 256, (height, width, 3), dtype=np.uint8))
    picture = picture.resize((width * 2, height * 2)).crop((0, 0, width, height))
    label = values.integers(0, NUM_CLASS + 1, (height, width), dtype=np.uint8).repeat(3, 1)
    turned = Image.Exif()
    turned[0x0112] = 6
    makers: list[Callable[[], bytes]] = [
        lambda: encode(picture, "JPEG"),
        lambda: encode(picture, "JPEG", progressive=True, exif=turned),
        lambda: encode(picture.convert("L"), "JPEG", restart_marker_rows=1),
        lambda: encode(picture.convert("CMYK"), "JPEG"),
        lambda: encode(picture, "PNG"),
        lambda: encode(picture.convert("P"), "PNG"),
        lambda: encode(picture.convert("LA"), "PNG"),
        lambda: encode(picture, "WEBP"),
        lambda: encode(picture, "WEBP", lossless=True, exif=turned),
        lambda: encode(picture, "BMP"),
        lambda: encode(picture.convert("P"), "BMP"),
        lambda: encode(Image.fromarray(label), "PNG"),
        lambda: encode(Image.fromarray(label.astype(np.uint16)), "PNG"),
        lambda: palette_label(label),
        lambda: interlaced_png(label),
    ]
    index = rng.randrange(len(makers))
    return makers[index](), index >= 11


def encode(image: Image.Image, kind: str, **settings: object) -> bytes:
    """The content of an image file of a kind, as Pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def palette_label(label: np.ndarray) -> bytes:
    """A label H x W as a PNG of indices into a palette."""
    image = Image.fromarray(label).convert("P")
    image.putpalette([i * 37 % 256 for i in range(256 * 3)])
    return encode(image, "PNG")


def interlaced_png(label: np.ndarray) -> bytes:
    """A label H x W, uint8, as a PNG of seven passes (Adam7, section 8.2 of the specification)."""
    passes = [label[y::dy, x::dx] for y, x, dy, dx in ADAM7]
    rows = b"".join(b"\0" + row.tobytes() for rows in passes for row in rows if row.size)
    height, width = label.shape
    return png(struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1), rows)


def png(header: bytes, rows: bytes) -> bytes:
    """A PNG file of a header and of filtered rows."""
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(chunk(kind, body) for kind, body in chunks)


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG file, with its length and its checksum."""
    check = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def cut_short(rng: random.Random, content: bytes) -> bytes:
    """Remove the end, at least 3 bytes: a JPEG without its last 2 can still be decoded."""
    return content[: rng.randrange(1, len(content) - 2)]


def flip_bits(rng: random.Random, content: bytes) -> bytes:
    """Flip 1, 8 or 64 bits."""
    flipped = bytearray(content)
    for _ in range(rng.choice((1, 1, 8, 64))):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def flip_checked_bits(rng: random.Random, content: bytes) -> bytes:
    """Flip bits within the chunks of a PNG, and correct the checksums; of other files, any bits."""
    if not content.startswith(PNG_SIGNATURE):
        return flip_bits(rng, content)
    changed, at = PNG_SIGNATURE, len(PNG_SIGNATURE)
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        kind, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        changed += chunk(kind, flip_bits(rng, body) if body and rng.random() < 0.5 else body)
        at += 12 + length
    return changed


def insert_bytes(rng: random.Random, content: bytes) -> bytes:
    """Insert 1, 2 or 100 random bytes at a random place."""
    at = rng.randrange(len(content))
    return content[:at] + rng.randbytes(rng.choice((1, 2, 100))) + content[at:]


def remove_bytes(rng: random.Random, content: bytes) -> bytes:
    """Remove up to 1, 2 or 100 bytes at a random place."""
    at = rng.randrange(len(content))
    return content[:at] + content[at + rng.choice((1, 2, 100)) :]


def clear_bytes(rng: random.Random, content: bytes) -> bytes:
    """Set up to 512 bytes to zero, as a failing disk does."""
    at = rng.randrange(len(content))
    return (content[:at] + bytes(512) + content[at + 512 :])[: len(content)]


def damaged(change: Callable[[random.Random, bytes], bytes]) -> Callable[[random.Random], File]:
    """A function that makes an undamaged file and changes it."""

    def make(rng: random.Random) -> File:
        content, is_label = good_file(rng)
        return change(rng, content), is_label

    return make


def spliced(rng: random.Random) -> File:
    """The head of one file before the tail of another."""
    (head, is_label), (tail, _) = good_file(rng), good_file(rng)
    return head[: rng.randrange(len(head))] + tail[rng.randrange(len(tail)) :], is_label


def huge(rng: random.Random) -> File:
    """A small picture whose header claims more than `MAX_PIXELS`."""
    kind = rng.choice(("JPEG", "PNG", "BMP", "WEBP"))
    image = Image.new(rng.choice(("L", "RGB")), (32, 32), "grey")
    content = encode(image, kind)
    width, height = (rng.randint(2**14 + 1, 2**16 - 1) for _ in range(2))
    if kind == "JPEG":
        at = content.index(b"\xff\xc0") + 5  # behind marker, length and depth
        content = content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]
    elif rng.random() < 0.5:
        width = height = 100_000
    if kind == "PNG":
        header = chunk(b"IHDR", struct.pack(">II", width, height) + content[24:29])
        content = PNG_SIGNATURE + header + content[33:]
    elif kind == "BMP":
        height *= rng.choice((1, -1))
        content = content[:18] + struct.pack("<ii", width, height) + content[26:]
    elif kind == "WEBP":
        sides = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
        body = b"WEBPVP8X" + struct.pack("<II", 10, 0) + sides + content[12:]
        content = b"RIFF" + struct.pack("<I", len(body)) + body
    return content, kind == "PNG" and rng.random() < 0.5


def no_label(rng: random.Random) -> File:
    """An undamaged picture that is no label: several channels, JPEG, or a value without a class."""
    image = Image.new("L", (40, 30), NUM_CLASS + 1)
    kind = rng.choice(("RGB", "RGBA", "LA", "JPEG", "high", "high in 16 bits"))
    if kind == "JPEG":
        return encode(image, "JPEG"), True
    if kind == "high in 16 bits":
        image = Image.fromarray(np.full((30, 40), 256 * rng.randint(1, 255), np.uint16))
    elif kind != "high":
        image = image.convert(kind)
    return encode(image, "PNG"), True


def text(rng: random.Random) -> File:
    """Words in place of a picture."""
    words = rng.choices(("not", "a", "picture", "<html>", "404", "BM", "GIF89a", "…"), k=20)
    return " ".join(words).encode(), rng.random() < 0.5


def noise(rng: random.Random) -> File:
    """Random bytes after the signature of a format; only OpenCV knows some of the formats."""
    signatures = (b"\xff\xd8\xff\xe0", PNG_SIGNATURE, b"BM", b"RIFF\0\1\0\0WEBPVP8 ", b"GIF89a")
    others = (b"II*\0", b"P5 20 20 255 ", b"P7\n", b"#?RADIANCE\n", b"Pf\n", b"Y\xa6j\x95", b"")
    content = rng.choice(signatures + others) + rng.randbytes(rng.randrange(2000))
    return content, rng.random() < 0.5


# For each kind of fault: the function that makes such a file, and the outcomes that are allowed.
FAULTS: dict[str, tuple[Callable[[random.Random], File], set[str]]] = {
    "none": (good_file, {DECODED}),
    "cut short": (damaged(cut_short), {REFUSED}),
    "bits flipped": (damaged(flip_bits), {DECODED, REFUSED}),
    "bits flipped, checksums right": (damaged(flip_checked_bits), {DECODED, REFUSED}),
    "bytes inserted": (damaged(insert_bytes), {DECODED, REFUSED}),
    "bytes removed": (damaged(remove_bytes), {DECODED, REFUSED}),
    "bytes cleared": (damaged(clear_bytes), {DECODED, REFUSED}),
    "two files spliced": (spliced, {DECODED, REFUSED}),
    "huge size promised": (huge, {REFUSED}),
    "no label": (no_label, {REFUSED}),
    "empty": (lambda rng: (b"", rng.random() < 0.5), {REFUSED}),
    "text": (text, {REFUSED}),
    "noise": (noise, {DECODED, REFUSED}),
}
