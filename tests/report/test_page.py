"""The report in a real browser, opened from the disk; and its scripts' side."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest

from report.analysis import read_counts

from ..conftest import SMALL, flags

EVAL = flags(workers=0, scales=1, list_class="classes.csv")
NAMES = ["sky", "ground", "<b>block</b></script>", "other"]


@pytest.fixture
def evaluated(script, data, tmp_path):
    """A run `mine` with a report, whose names of classes try to be HTML."""
    rows = [f"{i + 1},{name},{60 * i},90,{200 - 60 * i}" for i, name in enumerate(NAMES)]
    (tmp_path / "here/classes.csv").write_text("\n".join(["index,name,r,g,b", *rows]))
    label = np.zeros((64, 80), np.uint8)
    label[:, :2] = 1  # so that a picture lacks a class
    cv2.imwrite(str(data.label("val/0")), label)
    result = script("train.py", "--id", "mine", *SMALL, *data.flags, "--num_epoch", "1")
    assert result.code == 0, result.err
    result = script("eval.py", "--id", "mine", *EVAL, "--report", "1")
    assert result.code == 0, result.err
    return tmp_path / "here/result/mine"


@pytest.mark.slow
def test_the_page_answers_and_says_no_error(evaluated, browser):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    def text(selector: str) -> str:
        return browser.find_element(By.CSS_SELECTOR, selector).text

    def names() -> list[str]:
        rows = browser.find_elements(By.CSS_SELECTOR, "#classes tbody tr")
        return [row.find_element(By.TAG_NAME, "th").text for row in rows if row.is_displayed()]

    browser.get((evaluated / "report.html").as_uri())
    assert "3 of 3 pictures shown" in text("#shown")
    listed = names()
    assert "<b>block</b></script>" in listed  # text, not HTML

    column = browser.find_element(By.CSS_SELECTOR, "#classes thead th")
    orders = []
    for order in ("ascending", "descending"):
        column.find_element(By.TAG_NAME, "button").click()
        assert column.get_attribute("aria-sort") == order
        orders.append(names())
    assert orders[0].index("ground") < orders[0].index("sky")
    assert orders[1] == orders[0][::-1]
    search = browser.find_element(By.ID, "search")
    search.send_keys("SKY")
    assert names() == ["sky"]

    matrix = browser.find_element(By.ID, "matrix")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", matrix)
    corner = (-matrix.size["width"] // 2 + 9, -matrix.size["height"] // 2 + 9)
    ActionChains(browser).move_to_element_with_offset(matrix, *corner).perform()
    assert "of sky is predicted as sky" in text("#cell")
    matrix.send_keys(Keys.ARROW_RIGHT)
    assert "of sky is predicted as ground" in text("#cell")

    canvas = browser.find_element(By.CSS_SELECTOR, "#gallery canvas")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    WebDriverWait(browser, 20).until(lambda _: browser.execute_script("return !!cards[0].maps"))
    ActionChains(browser).move_to_element(canvas).perform()
    assert text("#gallery .under").startswith("label: ")
    before = browser.execute_script("return arguments[0].toDataURL()", canvas)
    view = browser.find_element(By.ID, "view")
    view.send_keys(Keys.HOME)
    WebDriverWait(browser, 20).until(
        lambda _: browser.execute_script("return arguments[0].toDataURL()", canvas) != before
    )
    assert text("#view-name") == "picture"

    counts = read_counts(evaluated / "pictures.npz")
    expected = (counts.labelled + counts.predicted > 0).sum(0)
    assert 0 < expected[:3].min() < 3
    for name, pictures in zip(NAMES[:3], expected[:3], strict=True):
        Select(browser.find_element(By.ID, "filter")).select_by_visible_text(name)
        assert text("#shown").startswith(f"{pictures} of 3 pictures shown")
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_runs_are_compared_by_their_files_alone(script, evaluated, tmp_path):
    shutil.copytree(evaluated, evaluated.with_name("other"))
    shutil.rmtree(tmp_path / "data")
    result = script("eval.py", "--compare", "mine", "other")
    assert result.code == 0, result.err
    found = json.loads((evaluated / "compared_to_other.json").read_text())
    assert [row["difference"] for row in found["means"]] == [0, 0]
    scores = json.loads((evaluated / "scores.json").read_text())
    means = [scores["mean_iou"], scores["pixel_accuracy"]]
    assert [row["a"] for row in found["means"]] == pytest.approx(means)

    longest = "x" * 200
    shutil.copytree(evaluated, evaluated.with_name(longest))
    assert script("eval.py", "--compare", longest, longest).code == 0

    result = script("eval.py", "--compare", "mine", "missing")
    assert result.code == 2 and "python eval.py --id missing" in result.err
    assert result.err.count("\n") == 1
    result = script("eval.py", "--compare", "mine", "../mine")
    assert result.code == 2 and "without slashes" in result.err


@pytest.mark.slow
def test_runs_scored_in_another_way_are_refused_or_told(script, data, evaluated):
    shutil.copytree(evaluated, evaluated.with_name("first"))
    result = script("eval.py", "--compare", "first", "mine")
    assert "WARNING" not in result.out and "in fewer than 10 pictures" in result.out
    assert not re.search(r"%  \*$", result.out, re.MULTILINE)
    assert (evaluated / "report.html").exists()
    assert script("eval.py", "--id", "mine", *EVAL, "--imgSize", "96").code == 0
    assert not (evaluated / "report.html").exists(), "it was of other scores"
    result = script("eval.py", "--compare", "first", "mine")
    assert "WARNING: A was evaluated with --imgSize -1, B with --imgSize 96" in result.out
    assert (
        script("eval.py", "--id", "mine", *EVAL, "--flip", "1", "--suffix", "_latest.pth").code == 0
    )
    path = evaluated.with_name("first") / "scores.json"
    scores = json.loads(path.read_text())
    del scores["settings"]["flip"]  # as before there was such a flag
    path.write_text(json.dumps(scores))
    result = script("eval.py", "--compare", "first", "mine")
    assert "WARNING: A was evaluated with --flip 0, B with --flip 1" in result.out
    assert (
        "WARNING: A was evaluated with --suffix _best.pth, B with --suffix _latest.pth"
        in result.out
    )
    label = cv2.imread(str(data.label("val/0")), cv2.IMREAD_GRAYSCALE)
    label[0, 0] = 3
    cv2.imwrite(str(data.label("val/0")), label)
    for change in (["--segSize", "32"], []):
        assert script("eval.py", "--id", "mine", *EVAL, *change).code == 0
        result = script("eval.py", "--compare", "first", "mine")
        assert result.code == 2 and "different labels, or at different sizes" in result.err


@pytest.mark.slow
def test_other_pictures_are_not_compared(script, data, evaluated):
    shutil.copytree(evaluated, evaluated.with_name("all"))
    assert script("eval.py", "--id", "mine", *EVAL, "--num_val", "2").code == 0
    result = script("eval.py", "--compare", "all", "mine")
    assert result.code == 2 and "different pictures" in result.err
    assert "python eval.py --id mine --list_val" in result.err
