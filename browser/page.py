"""The page of `app.py`, made with gradio."""

from pathlib import Path
from typing import Any

import gradio

from browser.networks import Networks, Segmented, buttons, draw, segment
from inference import SCALES
from models import ModelError
from utils import in_one_line
from visualize.panels import OPACITY

SIDES = (256, 384, 512, 768)  # pixels of the short side to choose from, beside --imgSize
LARGEST = "200mb"  # a photo's file
HOUR = 3600  # seconds that photos are kept

STYLE = """
.classes ul { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 6px; }
.classes button { display: flex; align-items: center; gap: 8px; padding: 6px 12px; cursor: pointer;
  border: 1px solid var(--border-color-primary); border-radius: 99px; font-weight: 400;
  background: var(--background-fill-secondary); color: var(--body-text-color); }
.classes button[aria-pressed=true] { border-color: var(--body-text-color);
  outline: 1px solid var(--body-text-color); }
.classes button:focus-visible { outline: 3px solid var(--color-accent); }
.classes i { width: 14px; height: 14px; border-radius: 3px; border: 1px solid #8888; }
.classes span { opacity: 0.75; font-variant-numeric: tabular-nums; }
"""
BUTTONS = """
<ul>{{#each value}}<li><button data-index="{{index}}" aria-pressed="{{alone}}">
<i style="background: {{colour}}"></i>{{name}} <span>{{share}}</span></button></li>{{/each}}</ul>
"""
# The buttons are made anew after each click: the one that was used keeps the keyboard's focus.
CLICKS = """
let used = null;
element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (button) { used = button.dataset.index; trigger('click', {index: Number(used)}); }
});
watch('value', () => {
  if (used !== null) element.querySelector(`[data-index="${used}"]`)?.focus();
  used = null;
});
"""


class Page:
    """The page: its controls, and what they do.

    Args:
        networks: to choose from.
    """

    def __init__(self, networks: Networks):
        self.networks = networks

    def show(self, result: Segmented | None, opacity: float, alone: int | None) -> list:
        """What all outputs become."""
        if result is None:
            return [None, None, gradio.update(value=None, alt_text=None), [], None, None]
        names = ", ".join(result.classes.names[i] for i, _ in result.shares)
        image = gradio.update(value=draw(result, opacity, alone), alt_text=names)
        return [result, alone, image, buttons(result, alone), result.label_map, result.panel]

    def on_change(
        self, photo: str | None, run_id: str, side: int, several: bool, opacity: float
    ) -> list:
        """A photo or a setting has changed: segment anew; where that fails, show nothing old."""
        if photo is None:
            return self.show(None, opacity, None)
        if not self.networks.is_here(run_id):
            gradio.Info(f"{run_id} is downloaded first")
        path, result = Path(photo), None
        try:
            scales = SCALES if several else (1.0,)
            result = segment(path, self.networks.load(run_id), side, scales)
        except Exception as error:
            line = in_one_line(error, ModelError)
            if line is None:
                raise
            line = line.replace(str(path), path.name)
            gradio.Warning(line, duration=None, title="Not segmented")
        return self.show(result, opacity, None)

    def on_click(
        self, result: Segmented, opacity: float, alone: int | None, event: gradio.EventData
    ) -> list:
        """A class was clicked: show it alone, or all again."""
        return self.show(result, opacity, None if event.index == alone else event.index)

    def build(self) -> gradio.Blocks:
        """The page, to be launched."""
        args, names = self.networks.args, self.networks.names
        sides = [(str(side), side) for side in sorted({*SIDES, args.imgSize} - {-1})]
        with gradio.Blocks(title="Segmentation", delete_cache=(HOUR // 60, HOUR)) as page:
            with gradio.Row():
                with gradio.Column(min_width=320):
                    photo = gradio.Image(label="photo", buttons=[])
                    # The file as it is, damaged or not, for `read_picture`; gradio would decode it.
                    photo.preprocess = lambda payload: payload and payload.path  # type: ignore
                    network = gradio.Dropdown(names, value=args.id or names[0], label="network")
                    side = gradio.Radio(
                        [*sides, ("as it is", -1)],
                        value=args.imgSize,
                        label="short side that the network sees, pixels",
                    )
                    several = gradio.Checkbox(label="average over five scales")
                with gradio.Column(scale=2, min_width=320):
                    image = gradio.Image(
                        label="classes", format="png", interactive=False, buttons=["fullscreen"]
                    )
                    opacity = gradio.Slider(0, 1, OPACITY, step=0.05, label="opacity")
                    legend = gradio.HTML(
                        [], html_template=BUTTONS, js_on_load=CLICKS, elem_classes="classes"
                    )
                    with gradio.Row():
                        files = [gradio.DownloadButton(name) for name in ("label map", "panel")]
            result, alone = gradio.State(time_to_live=HOUR), gradio.State()
            shown, outputs = [result, opacity, alone], [result, alone, image, legend, *files]
            settings: list[Any] = [network, side, several]
            changes = [photo.input, photo.clear, *(setting.change for setting in settings)]
            gradio.on(changes, self.on_change, [photo, *settings, opacity], outputs)
            legend.click(self.on_click, shown, outputs, show_progress="hidden")
            opacity.change(
                self.show, shown, outputs, show_progress="hidden", trigger_mode="always_last"
            )
        return page

    def serve(self, host: str, port: int) -> None:
        """Serve the page in the background."""
        # Without gradio's own fonts, which every browser would fetch from elsewhere.
        theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
        self.build().launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            max_file_size=LARGEST,
            ssr_mode=False,
            theme=theme,
            css=STYLE,
            footer_links=[],
        )
