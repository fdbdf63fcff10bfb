import tracemalloc

import pytest

from common.lists import read_list
from utils import UserError


def test_lists_may_have_empty_lines_and_any_line_ends(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("a/1.jpg\r\n\n  b/é ü.jpg \n".encode())
    assert list(read_list(path)) == ["a/1.jpg", "b/é ü.jpg"]
    path.write_text("a/1.jpg\n", encoding="utf-8-sig")
    assert list(read_list(path)) == ["a/1.jpg"]


@pytest.mark.slow
def test_a_list_of_millions_stays_small(tmp_path):
    """Not a string for each line: workers share what is never written to."""
    path = tmp_path / "list.txt"
    path.write_text("".join(f"training/ADE_train_{i:08d}.jpg\n" for i in range(10**6)))
    tracemalloc.start()
    names = read_list(path)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(names) == 10**6 and names[777_777] == "training/ADE_train_00777777.jpg"
    assert size < path.stat().st_size + 20 * len(names)


def test_a_list_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a/1.jpg", encoding="utf-16")
    with pytest.raises(UserError, match="list.txt is no text in UTF-8"):
        read_list(path)


def test_a_missing_list_of_ade20k_tells_where_data_come_from():
    with pytest.raises(UserError, match="no/ADE20K_object150_val.txt.*download_ADE20K.sh.*demo"):
        read_list("no/ADE20K_object150_val.txt")
    with pytest.raises(UserError, match="no/list.txt: No such file or directory$"):
        read_list("no/list.txt")
