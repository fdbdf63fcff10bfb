"""A page that shows the panels of many pictures; it opens from the disk, beside their files.

It has no script, and text of others (names of files and classes) is escaped.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from common.files import MARK, write_atomically

HEAD = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="{MARK}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
style-src 'unsafe-inline'; img-src * data:">
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; --bg: #f4f5f7; --card: #fff; --ink: #1c2024; --soft: #5c6570; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --bg: #14171a; --card: #1d2125; --ink: #e8eaed; --soft: #a3acb6; }}
  img {{ filter: brightness(.88); }}
}}
body {{ margin: 0 auto; max-width: 120rem; padding: 1rem; background: var(--bg); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }}
h1 {{ margin: .25rem 0 1rem; font-size: 1.5rem; overflow-wrap: anywhere; }}
main {{ display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)); }}
figure {{ margin: 0; border-radius: 8px; overflow: hidden; background: var(--card);
  box-shadow: 0 1px 3px #0003; }}
img {{ display: block; width: 100%; height: auto; background: #fff; }}
a:focus-visible {{ outline: 3px solid; }}
figcaption {{ padding: .5rem .75rem; overflow-wrap: anywhere; }}
figcaption span, ul {{ color: var(--soft); font-size: .9rem; }}
</style>
"""


@dataclass(frozen=True)
class Card:
    """A picture on the page: its name, its classes, its panel (file, width, height)."""

    name: str
    classes: str
    panel: str
    width: int
    height: int


def write_index(path: Path, title: str, cards: Sequence[Card], unreadable: Sequence[str]) -> None:
    """Write the page.

    Args:
        path: of the page, in the folder of the panels.
        title: of the page.
        cards: the pictures.
        unreadable: why some pictures could not be read.
    """
    figures = [
        f'<figure><a href="{quote(os.fsencode(card.panel))}">'
        f'<img src="{quote(os.fsencode(card.panel))}" loading="lazy" '
        f'width="{card.width}" height="{card.height}" alt="{escape(card.classes)}"></a>'
        f"<figcaption><bdi>{escape(card.name)}</bdi><br>"
        f"<span>{escape(card.classes)}</span></figcaption></figure>"
        for card in cards
    ]
    lines = [
        f"{HEAD}<title>{escape(title)}</title>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n<main>",
        *figures,
        "</main>",
    ]
    if unreadable:
        lines += ["<h2>Not readable</h2>\n<ul>"]
        lines += [f"<li>{escape(reason)}</li>" for reason in unreadable]
        lines += ["</ul>"]
    page = "\n".join([*lines, "</body>\n</html>\n"])
    # A name that is no valid text has question marks in it.
    write_atomically(path, lambda file: file.write(page.encode(errors="replace")))
