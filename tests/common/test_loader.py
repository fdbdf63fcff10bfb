"""`common/loader.py`: workers, batches, and how both end."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from common.loader import ahead, batch_by_size, make_loader
from utils import STOP_SIGNALS, UserError

from ..conftest import ROOT
from ..test_dataset import dataset


def test_workers_are_never_more_than_the_cores_at_hand(data, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert make_loader(dataset(data), 16).num_workers == 3
    assert make_loader(dataset(data), 2).num_workers == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # processes of this machine
    assert make_loader(dataset(data), 16).num_workers == 1


HOLD_WORKER = """
import sys
from common.loader import make_loader
from dataset import SegmentationDataset
loader = make_loader(SegmentationDataset(*sys.argv[1:4], num_class=4), 1, batch_size=None)
items = iter(loader)
print(next(items)[2], items._workers[0].pid, flush=True)
input()
print(len(list(items)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system does not tell senders")
def test_a_worker_outlives_everybody_s_signals_and_ends_with_its_process(data):
    paths = [data.folder / name for name in ("train.txt", "images", "annotations")]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_WORKER, *map(str, paths)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        worker = int(process.stdout.readline().split()[1])  # it is at work now
        for number in STOP_SIGNALS:
            os.kill(worker, number)
        out, _ = process.communicate("go on\n", timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0 and int(out) == len(dataset(data)) - 1


def test_an_error_in_a_worker_arrives_as_its_one_line(data):
    data.picture("train/3").write_text("not a picture")
    loader = make_loader(dataset(data), 1, batch_size=None)
    with pytest.raises(UserError) as error:
        list(loader)
    assert str(error.value).startswith(str(Path(data.picture("train/3"))))
    assert "\n" not in str(error.value)


def test_pictures_keep_the_memory_format_that_convolutions_want(data):
    images, _, _ = next(iter(make_loader(dataset(data), 0, batch_size=3)))
    assert images.shape == (3, 3, 64, 80)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_next_item_is_got_while_one_is_in_use():
    used = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        used.wait(60)  # the first is in use by now, and its user waits for this
        got.set()
        yield 1

    got = threading.Event()
    found = []
    for item in ahead(items()):
        used.set()
        assert got.wait(60)
        found.append(item)
    assert found == [0, 1]


def test_an_error_ahead_comes_after_the_items_before_it():
    def items() -> Iterator[int]:
        yield 0
        raise UserError("damaged")

    found = ahead(items())
    assert next(found) == 0
    with pytest.raises(UserError, match="damaged"):
        next(found)
    assert list(ahead([])) == [] and list(ahead([None])) == [None]


def test_batches_hold_neighbours_of_one_size():
    sizes = [4, 4, 4, 6, 4, 4]
    items = [(np.zeros((3, s, s)), i) for i, s in enumerate(sizes)]
    batches = [[i for _, i in batch] for batch in batch_by_size(items, 2)]
    assert batches == [[0, 1], [2], [3], [4, 5]]
