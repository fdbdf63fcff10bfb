import matplotlib
import pytest
from PIL import Image

from visualize.curves import history_figures


def row(epoch: int, **changes: float) -> dict[str, float]:
    """An epoch that was not validated."""
    rates = {"lr_encoder": 0.1 / epoch, "lr_decoder": 1 / epoch}
    return {"epoch": epoch, "train_loss": 2 / epoch, "train_accuracy": 0.5, **rates, **changes}


def validated(epoch: int, mean_iou: float) -> dict[str, float]:
    return row(epoch, val_loss=3 / epoch, pixel_accuracy=0.6, mean_iou=mean_iou)


@pytest.mark.slow
@pytest.mark.parametrize(
    "history",
    [
        [row(1)],
        [validated(1, 0.4)],
        [row(1), row(2), validated(3, 0.4)],
        [{"epoch": 1, "train_loss": 0.0}, {"epoch": 2, "train_loss": 1.0, "mean_iou": 0.0}],
        [validated(epoch, epoch / 200) for epoch in range(1, 201)],
    ],
    ids=["one epoch", "one validated epoch", "gaps", "old columns", "200 epochs"],
)
def test_any_history_has_curves_with_labelled_axes(history, tmp_path):
    before = dict(matplotlib.rcParams)
    figures = history_figures(history)
    assert {*figures} == {"loss.png", "accuracy.png"}
    for name, figure in figures.items():
        figure.savefig(tmp_path / name)
        assert Image.open(tmp_path / name).size == (960, 720)
        assert all(axes.get_ylabel() for axes in figure.axes)
        assert figure.axes[-1].get_xlabel() == "epoch"
        ticks = figure.axes[-1].get_xticks()
        assert all(tick == round(tick) for tick in ticks)
    assert dict(matplotlib.rcParams) == before


def test_a_curve_bridges_the_epochs_that_lack_its_value():
    history = [validated(1, 0.2), row(2), validated(3, 0.4), {"epoch": 4, "train_loss": 0.1}]
    figures = history_figures(history)
    loss, rates = figures["loss.png"].axes
    training, validation = loss.get_lines()
    assert training.get_xydata().tolist() == [[1, 2], [2, 1], [3, 2 / 3], [4, 0.1]]
    assert validation.get_xydata().tolist() == [[1, 3], [3, 1]]
    assert [line.get_xdata().tolist() for line in rates.get_lines()] == [[1, 2, 3]] * 2


def test_the_first_epoch_of_the_best_mean_iou_is_marked_with_its_number():
    history = [validated(1, 0.2), row(2), validated(3, 0.412), validated(4, 0.412)]
    (axes,) = history_figures(history)["accuracy.png"].axes
    assert axes.get_lines()[-1].get_xydata().tolist() == [[3, 0.412]]
    assert [text.get_text() for text in axes.texts] == ["best: 41.2% in epoch 3"]


def test_a_loss_that_falls_to_less_than_a_tenth_has_a_logarithmic_axis():
    for last, scale in ((0.11, "linear"), (0.09, "log"), (0, "linear")):
        history = [{"epoch": 1, "train_loss": 1.0}, {"epoch": 2, "train_loss": last}]
        (axes,) = history_figures(history)["loss.png"].axes
        assert axes.get_yscale() == scale


def test_rates_that_are_the_same_are_both_seen():
    history = [row(epoch, lr_encoder=1 / epoch) for epoch in (1, 2)]
    _, rates = history_figures(history)["loss.png"].axes
    assert [line.get_linestyle() for line in rates.get_lines()] == ["-", "--"]
