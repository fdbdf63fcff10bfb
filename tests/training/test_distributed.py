"""Several processes on one machine do what one does; where one is lost, all end and say so."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.distributed import World
from models import ModelBuilder
from stress.crashes import outcome, same, worker
from utils import UserError

from ..conftest import ROOT, SMALL, TINY, Data, changed_training

pytestmark = pytest.mark.slow  # they train

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
# What train.py does by itself for --num_gpus 2, on a machine without GPUs.
LAUNCH = (
    "import sys; sys.path.insert(0, {0!r}); sys.argv[0] = {0!r} + '/train.py';"
    "from common.distributed import launch; from utils import run_script;"
    "run_script(lambda: launch(2))"
).format(str(ROOT))


@pytest.fixture
def data(data: Data) -> Data:
    """Eight training and seven validation pictures, which neither two nor three divide."""
    train, val = data.folder / "train.txt", data.folder / "val.txt"
    train.write_text(train.read_text() + "train/0.jpg\ntrain/1.jpg\n")
    val.write_text(val.read_text() + "train/2.jpg\ntrain/3.jpg\ntrain/4.jpg\ntrain/5.jpg\n")
    return data


def command(processes: int, name: str, *flags: object, options: tuple[str, ...] = ()) -> list[str]:
    """A script with flags, as it would be typed."""
    start = [*TORCHRUN, str(processes), *options] if processes > 1 else [sys.executable]
    return [*start, str(ROOT / name), *map(str, flags)]


def run(folder: Path, *args: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*args, **options),
        cwd=folder,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
    )


def test_a_launcher_that_nohup_started_outlives_its_terminal(tmp_path):
    """torch's own would end its processes, and the training with them."""
    (tmp_path / "child.py").write_text(
        "import os, signal, time\n"
        "os.kill(os.getppid(), signal.SIGHUP)\n"
        "time.sleep(1)\n"
        "open('done' + os.environ['RANK'], 'w')\n"
    )
    code = (
        f"import signal, sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['child.py'];"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN);"
        "from common.distributed import launch; launch(2)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert (tmp_path / "done0").exists() and (tmp_path / "done1").exists()


@pytest.mark.parametrize(
    ("processes", "fix_bn", "close"), [(3, 1, 1e-5), (2, 0, 1e-3)], ids=["frozen", "synchronised"]
)
def test_several_processes_train_the_network_that_one_trains(
    processes, fix_bn, close, data, tmp_path
):
    """BatchNorm is frozen or synchronised. The last step has two pictures: a third process none."""
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder("resnet18dilated", weights="none")
    torch.save(encoder.state_dict(), tmp_path / "encoder.pth")
    torch.save(ModelBuilder.build_decoder(num_class=4).state_dict(), tmp_path / "decoder.pth")
    outcomes = {}
    for size in (1, processes):
        flags = ["--id", size, *SMALL, *data.flags, "--num_epoch", "2", "--fix_bn", fix_bn]
        flags += ["--weights_encoder", tmp_path / "encoder.pth", "--lr_encoder", "0.1"]
        flags += ["--weights_decoder", tmp_path / "decoder.pth"]
        flags += ["--batch_size_per_gpu", 6 // size, "--class_weight", "median"]
        result = run(tmp_path, size, "train.py", *flags)
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("8 training and 7 validation pictures") == 1  # one speaks
        assert result.stdout.count("Counting the pixels of each class in 8 labels") == 1
        (data.folder / "train.txt.class_weight.csv").unlink()  # so that both count
        outcomes[size] = outcome(tmp_path / f"ckpt/{size}")
    weights, history = outcomes[1]
    assert not torch.equal(weights["encoder_latest.pth"]["conv1.weight"], encoder.conv1.weight)
    torch.testing.assert_close(outcomes[processes][0], weights, rtol=close, atol=close)
    for row, expected in zip(outcomes[processes][1], history, strict=True):
        for key in ("train_loss", "val_loss", "pixel_accuracy", "mean_iou"):
            assert float(row[key]) == pytest.approx(float(expected[key]), rel=10 * close)
    assert len({path.read_text() for path in tmp_path.glob("ckpt/*/class_weight.csv")}) == 1


@pytest.mark.stress
def test_three_processes_go_on_to_the_last_bit(data, tmp_path):
    """Stopped after the first of three steps an epoch. Sums of three depend on their order.

    The third has no picture to validate.
    """
    change = """
import signal
from training import optimizer
adjust, steps = optimizer.adjust_learning_rates, []
def stopped(*args):
    steps.append(args)
    if len(steps) == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    adjust(*args)
optimizer.adjust_learning_rates = stopped
"""
    flags = [*TINY, *data.flags, "--num_epoch", 2, "--batch_size_per_gpu", 1, "--eval_epoch", 2]
    flags += ["--optim", "AdamW", "--num_val", 2]
    assert run(tmp_path, 3, "train.py", "--id", "whole", *flags).returncode == 0
    script = changed_training(tmp_path, change)
    assert run(tmp_path, 3, script, "--id", "cut", *flags).returncode != 0
    progress = torch.load(tmp_path / "ckpt/cut/training_latest.pth", weights_only=True)["progress"]
    assert progress["pictures"] == 3
    result = run(tmp_path, 3, "train.py", "--resume", "cut")
    assert result.returncode == 0, result.stderr
    assert same(outcome(tmp_path / "ckpt/whole"), outcome(tmp_path / "ckpt/cut"))


def test_a_shared_evaluation_gives_the_very_scores_and_report_of_one_process(data, tmp_path):
    folder = tmp_path / "ckpt/run"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    for part in (
        ("encoder", ModelBuilder.build_encoder("resnet18dilated", weights="none")),
        ("decoder", ModelBuilder.build_decoder(num_class=4)),
    ):
        torch.save(part[1].state_dict(), folder / f"{part[0]}_best.pth")
    flags = ["--id", "run", "--arch_encoder", "resnet18dilated", *data.flags[2:]]
    flags += ["--amp", "off", "--workers", 0, "--report", 1]
    outcomes = []
    for processes in (1, 3):
        result = run(tmp_path, processes, "eval.py", *flags, "--result", processes)
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("7 pictures; scores") == 1
        folder = tmp_path / f"{processes}/run"
        scores = json.loads((folder / "scores.json").read_text())
        page = (folder / "report.html").read_text()
        page, settings = page.split('"settings": ')
        outcomes.append(
            (
                {**scores, "settings": None},
                (folder / "pictures.npz").read_bytes(),
                (page, settings.split("</script>", 1)[1]),
            )
        )
    assert outcomes[0] == outcomes[1]


def test_a_mistake_is_told_once(data, tmp_path):
    (data.folder / "train.txt").unlink()
    result = run(tmp_path, 2, "train.py", "--id", "run", *TINY, *data.flags)
    assert result.returncode != 0 and result.stderr.count("train.py: error:") == 1
    assert not (tmp_path / "ckpt").exists()


def test_machines_that_do_not_share_the_runs_do_not_resume(data, tmp_path):
    flags = ["--id", "run", *TINY, *data.flags, "--num_epoch", "1"]
    result = run(tmp_path, 1, "train.py", *flags, "--ckpt", "ckpt0")
    assert result.returncode == 0, result.stderr
    change = "sys.argv += ['--resume', '1', '--ckpt', 'ckpt' + os.environ['RANK']]"
    result = run(tmp_path, 2, changed_training(tmp_path, change), *flags)
    assert (
        result.returncode != 0 and result.stderr.count("error: --resume: there is ckpt0/run") == 1
    )
    assert not (tmp_path / "ckpt1").exists()


@pytest.fixture
def endless(data, tmp_path):
    """Starts a training without end, and waits until it has saved; it is gone in the end."""
    started = []

    def start(arguments: list[str], **environment: str) -> subprocess.Popen:
        process = subprocess.Popen(
            arguments,
            cwd=tmp_path,
            env=os.environ | ENVIRONMENT | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        for line in process.stdout:
            if line.startswith("Epoch: [2]"):
                return process
        raise AssertionError(process.stderr.read())

    yield start
    for process in started:
        for rank in range(3):
            if victim := worker(process.pid, rank):
                os.kill(victim, signal.SIGKILL)
        process.kill()


def training(data: Data, *flags: object) -> list[str]:
    """The flags of a training whose every step is saved."""
    every_step = ("--ckpt_minutes", "0", "--disp_iter", "1", "--num_epoch", "900")
    return ["--id", "run", *TINY, *data.flags, *every_step, *map(str, flags)]


def test_a_killed_process_ends_the_others_and_is_named(data, tmp_path, endless):
    process = endless([sys.executable, "-c", LAUNCH, *training(data, "--eval_epoch", 900)])
    os.kill(worker(process.pid, 1), signal.SIGKILL)
    assert process.wait(timeout=60) == 2
    assert "the process of rank 1 was killed (SIGKILL)" in process.stderr.read()
    # What was saved goes on in another number of processes.
    process = endless(command(3, "train.py", "--resume", "run"))


def test_a_process_that_raises_ends_the_others_and_is_named(data, tmp_path):
    """Under torchrun, whose summary names it; what the process itself said is there, too."""
    change = """
from training import optimizer
if os.environ["RANK"] == "1":
    optimizer.adjust_learning_rates = lambda *_: 1 / 0
"""
    arguments = [*TORCHRUN, "2", changed_training(tmp_path, change), *training(data)]
    process = subprocess.run(
        arguments, cwd=tmp_path, env=os.environ | ENVIRONMENT, capture_output=True, text=True
    )
    assert process.returncode != 0 and "ZeroDivisionError" in process.stderr
    assert re.search(r"Root Cause.*rank +: 1 ", process.stderr, re.S)


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("[gloo/pair.cc:1] Connection closed by peer [10.0.0.1]:1", True),
        ("NCCL error in: a.cpp:1\nncclRemoteError: A call failed possibly due to a network", True),
        ("[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)", True),
        ("NCCL error in: a.cpp:1\nncclUnhandledCudaError: Cuda failure 2 'out of memory'", False),
        ("NCCL error in: a.cpp:1\nncclInvalidUsage: Duplicate GPU detected: ranks 1, 0", False),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", False),
    ],
)
def test_only_lost_connections_are_told_as_such(message, lost, monkeypatch):
    monkeypatch.setattr(World, "find_missing_rank", lambda _: "rank 1 does not answer")
    world = World("cpu")
    world.size = 2
    expected, words = (UserError, "rank 1 does not") if lost else (RuntimeError, message[-20:])
    with pytest.raises(expected, match=re.escape(words)), world.explain_lost_connections():
        raise RuntimeError(message)


@pytest.mark.parametrize("silent", [0, pytest.param(1, marks=pytest.mark.stress)])
def test_a_process_that_stalls_ends_the_others_and_is_named(data, tmp_path, endless, silent):
    arguments = command(2, "train.py", *training(data, "--timeout", 3))
    # So long torchrun waits for a process that does not react, before it kills it.
    process = endless(arguments, TORCH_ELASTIC_SHUTDOWN_TIMEOUT="2")
    os.kill(worker(process.pid, silent), signal.SIGSTOP)
    assert process.wait(timeout=120) != 0
    assert f"rank {silent} does not answer" in process.stderr.read()


def test_a_signal_to_the_launcher_saves_and_ends_all(data, tmp_path, endless):
    process = endless([sys.executable, "-c", LAUNCH, *training(data, "--eval_epoch", 900)])
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert "train.py --resume run" in process.stdout.read()


def test_a_signal_in_a_validation_ends_all(data, tmp_path):
    """Rank 1 has scored its share by then, and waits for the others'."""
    change = """
import signal
from training import trainer
argmax = trainer.upsample_argmax
def asked(*args):
    if os.environ["RANK"] == "0":
        time.sleep(2)
        os.kill(os.getpid(), signal.SIGTERM)
    return argmax(*args)
trainer.upsample_argmax = asked
"""
    flags = ["--id", "run", *TINY, *data.flags, "--num_epoch", "1", "--num_val", "2"]
    result = run(tmp_path, 2, changed_training(tmp_path, change), *flags)
    assert "Stopped by SIGTERM after a save" in result.stdout
    assert "does not answer" not in result.stderr and "connection" not in result.stderr
    assert (tmp_path / "ckpt/run/training_latest.pth").exists()


def test_torchrun_restarts_what_was_killed_and_training_goes_on(data, tmp_path, endless):
    flags = training(data, "--num_epoch", 6, "--eval_epoch", 6, "--resume", 1)
    process = endless(command(2, "train.py", *flags, options=("--max-restarts", "2")))
    os.kill(worker(process.pid, 0), signal.SIGKILL)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "Going on in epoch" in out and "Best validation mIoU" in out
