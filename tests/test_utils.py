import os

from utils import result_names


def test_names_of_results_are_flat_and_unlike_each_other():
    names = ["training/a.b.jpg", "x/0.jpg", "x/0.png", "x_0.png", "x_0_png.webp", "../../etc/x.jpg"]
    results = result_names([*names, names[0]])
    assert list(results) == names
    assert results["training/a.b.jpg"] == "training_a.b"
    assert [results[name] for name in names[1:4]] == ["x_0", "x_0_png", "x_0_png2"]
    assert len(set(results.values())) == len(names)
    assert not any("/" in result for result in results.values())


def test_names_of_results_leave_room_for_their_endings():
    names = [f"{'ä' * 120}{end}.jpg" for end in "ab"]
    results = result_names(names)
    assert len(set(results.values())) == 2
    assert all(len(os.fsencode(result)) <= 210 for result in results.values())
