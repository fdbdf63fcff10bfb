import json
import multiprocessing
import os
import resource
import shutil
import time
from contextlib import suppress
from itertools import count

import pytest
import torch

from common.files import (
    MAX_NAME_BYTES,
    atomic_path,
    check_writable,
    read_together,
    saved_file,
    tensors,
    text,
    write_atomically,
    write_together,
)
from utils import UserError


def test_a_folder_that_cannot_be_made_is_found_out_without_making_it(tmp_path):
    (tmp_path / "file").write_text("")
    check_writable("--ckpt", tmp_path / "a/b")
    assert not (tmp_path / "a").exists()
    for folder in (tmp_path / "file", tmp_path / "file/a/b"):
        with pytest.raises(UserError, match="--ckpt .*file is no folder"):
            check_writable("--ckpt", folder)


def test_an_interrupted_write_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"old": 1}))

    def fail(file):
        file.write(b"{")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_path_whose_writer_fails_keeps_its_old_file(error, tmp_path):
    path = tmp_path / "picture.png"

    def fail() -> None:
        with atomic_path(path) as partial:
            partial.write_bytes(b"half of the n")
            raise error

    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        fail()
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_path_that_nothing_is_written_to_keeps_its_old_file(tmp_path):
    path = tmp_path / "picture.png"
    with atomic_path(path):
        pass
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"old")
    with atomic_path(path):
        pass
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_path_gets_its_new_file_when_that_is_whole(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    with atomic_path(path) as partial:
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_file_may_have_the_longest_name_there_is(tmp_path):
    path = tmp_path / f"{'x' * (MAX_NAME_BYTES - 4)}.png"
    write_atomically(path, text("new"))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_error_without_a_number_is_told_in_its_own_words(tmp_path):
    def fail(file):
        raise OSError("encoder error -2")

    with pytest.raises(UserError, match="cannot write .*a.png: encoder error -2$"):
        write_atomically(tmp_path / "a.png", fail)


class PowerCut(BaseException):
    """Ends the process here, as far as the code under test can tell."""


def calls_of(names: list[str], run, monkeypatch, stop_at: int | None = None) -> int:
    """Run something, cut off at one of its calls of the system's functions; returns how many."""
    count = 0

    def watched(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == stop_at:
                raise PowerCut
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(os, name, watched(getattr(os, name)))
        # After a cut, nothing can be tidied up any more.
        rmtree = shutil.rmtree
        patch.setattr(
            shutil, "rmtree", lambda *a, **k: None if count == stop_at else rmtree(*a, **k)
        )
        with suppress(PowerCut):
            run()
    return count


def test_a_save_that_is_cut_off_anywhere_leaves_all_files_old_or_all_new(tmp_path, monkeypatch):
    names = ("encoder_latest.pth", "decoder_latest.pth", "training_latest.pth")
    system = ["fsync", "rename", "replace", "open", "link"]

    def save(generation: int) -> None:
        files = {name: text(f"{generation} {name}") for name in names}
        files["encoder_best.pth"] = "encoder_latest.pth"
        write_together(tmp_path / "run", files)

    def generations() -> set[str]:
        return {saved_file(tmp_path / "run", name).read_text().split()[0] for name in names}

    total = calls_of(system, lambda: save(0), monkeypatch)
    assert total > 10
    seen = set()
    for generation, stop_at in enumerate(range(1, total + 1), start=1):
        before = generations()
        calls_of(system, lambda generation=generation: save(generation), monkeypatch, stop_at)
        after = generations()
        assert len(after) == 1 and after <= before | {str(generation)}
        seen.add(after == before)
    assert seen == {True, False}
    save(99)  # the next save puts everything right
    assert generations() == {"99"}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(
        [*names, "encoder_best.pth"]
    )


def test_files_that_are_read_together_are_of_one_save(tmp_path):
    """While another process saves without a pause."""
    names = ["encoder_latest.pth", "decoder_latest.pth"]

    def save(generation: int) -> None:
        write_together(tmp_path, {name: text(str(generation)) for name in names})

    save(0)
    stop = multiprocessing.Event()

    def saving() -> None:
        os.fsync = lambda _: None
        for generation in count(1):
            save(generation)
            time.sleep(0.002)
            if stop.is_set():
                return

    process = multiprocessing.get_context("fork").Process(target=saving)
    process.start()
    try:
        seen: set[str] = set()
        while len(seen) < 20:
            encoder, decoder = read_together(
                tmp_path, names, lambda *paths: [path.read_text() for path in paths]
            )
            assert encoder == decoder
            seen.add(encoder)
    finally:
        stop.set()
        process.join()


def test_files_that_change_for_ever_are_not_waited_for(tmp_path):
    path = tmp_path / "a"
    path.write_text("")

    def read(path) -> None:
        path.write_text(path.read_text() + "x")

    with pytest.raises(UserError, match="again and again"):
        read_together(tmp_path, ["a"], read)


def test_an_error_of_files_that_stay_is_that_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_together(tmp_path, ["a"], lambda path: path.read_text())


def save_on_a_full_disk(folder) -> None:
    """In a process of its own: files may not become larger than 10 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    files = {
        "config.json": text("new"),
        "encoder_latest.pth": tensors({"weight": torch.zeros(100_000)}),
    }
    with pytest.raises(UserError, match="cannot save to .*; what was saved before stays"):
        write_together(folder, files)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_what_was_saved(tmp_path):
    write_together(tmp_path, {"config.json": text("old")})
    process = multiprocessing.get_context("spawn").Process(
        target=save_on_a_full_disk, args=(tmp_path,)
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == "old"
