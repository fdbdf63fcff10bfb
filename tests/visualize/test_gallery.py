import os
from html.parser import HTMLParser
from urllib.parse import unquote_to_bytes

import pytest

from common.files import check_own
from utils import UserError
from visualize.gallery import Card, write_index

ODD = [
    "<script>alert(1)</script>.jpg",
    '" onerror="alert(1)\' &amp;.jpg',
    "a b#c?d%20e.jpg",
    "é … \u202e×.jpg",
    os.fsdecode(b"caf\xe9.jpg"),
    "javascript:alert(1).jpg",
]


class Page(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, content: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_the_page_shows_every_panel_and_escapes_what_others_have_named(tmp_path):
    cards = [Card(name, f"{name} 100.0%", f"{name}_panel.png", 640, 360) for name in ODD]
    write_index(tmp_path / "index.html", f"{ODD[0]}: 6 pictures", cards, [f"cannot read {ODD[1]}"])
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    tags = [tag for tag, _ in page.elements]
    assert "script" not in tags and tags.count("li") == 1
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert [os.fsdecode(unquote_to_bytes(image["src"])) for image in images] == [
        card.panel for card in cards
    ]
    assert not any(":" in image["src"] for image in images)
    for image in images:
        assert {*image} == {"src", "loading", "width", "height", "alt"}
        assert image["loading"] == "lazy" and (image["width"], image["height"]) == ("640", "360")
    shown = [name.encode(errors="replace").decode() for name in ODD]
    assert all(name in page.text for name in shown) and f"cannot read {ODD[1]}" in page.text


def test_a_page_of_somebody_else_is_not_overwritten(tmp_path):
    path = tmp_path / "index.html"
    check_own("--result", [path])
    write_index(path, "run: 0 pictures", [], [])
    check_own("--result", [path])
    path.write_text("<html>my home page</html>")
    with pytest.raises(UserError, match="--result: .*index.html"):
        check_own("--result", [path])
