"""Figures of the chapter on deep experiments: Figures 5, 6, 11 and 12 of paper D, and what its text describes."""

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, MEASURED, PREDICTED, axes, layer_colors
from claimbook.show.notebook import show_figure
from companion.theory_iii import deep_experiments_runs as runs
from companion.theory_iii.deep_experiments import KINDS, error, normalised, raw
from companion.theory_iii.deep_experiments_runs import BY_WIDTH, by_size, curve, ends, fitted, stored

DOTTED = {"linestyle": ":"}
SOLID = BROKEN | {"linestyle": "-"}


def _draws(ax, x, values, look, label=None) -> None:
    """The mean over draws as a line, and each draw as a dot."""
    ax.plot(x, values.mean(1), **look, label=label)
    for k in range(values.shape[1]):
        ax.plot(x, values[:, k], ".", color=look["color"], markersize=4)


def draw_parameters(case: Case) -> None:
    """Figure 6: error and risk against the number of parameters, with the training error and the best temperature."""
    fig, (left, right) = axes(1, 2, height=3.2)
    numbers = [runs.parameters(c) for c in runs.WIDTHS]
    data: dict = {"parameters": numbers}
    panels = (
        (left, "test_error", MEASURED, "test"), (left, "train_error", MEASURED | DOTTED, "training"),
        (right, "test_loss", SOLID, "risk"), (right, "calibrated", PREDICTED, "at the best temperature"),
    )  # fmt: skip
    for ax, key, look, label in panels:
        values = ends(BY_WIDTH, key)
        _draws(ax, numbers, values, look, label)
        data[key] = values.mean(1)
    for ax, label in ((left, "share of errors"), (right, "cross-entropy in test")):
        ax.axvline(runs.IMAGES, color=GREEN, linewidth=1.0, linestyle=":")
        ax.set(xscale="log", xlabel="parameters (2,000 images)", ylabel=label, ylim=(0, None))
        ax.legend(fontsize=8)
    show_figure(fig, name="parameters", data=data)


def draw_examples(case: Case) -> None:
    """Figure 5: errors against the number of images, with true and with random labels."""
    fig, panels = axes(1, 2, height=3.0, sharey=True)
    data: dict = {"images": runs.SIZES}
    for ax, labels in zip(panels, ("true", "random"), strict=True):
        for key, look, label in (("test_error", MEASURED, "test"), ("train_error", MEASURED | DOTTED, "training")):
            values = ends(by_size(labels), key)
            _draws(ax, runs.SIZES, values, look, label)
            data[f"{labels}_{key}"] = values.mean(1)
        ax.axhline(0.9, **PREDICTED | {"linewidth": 0.9}, label="chance")
        ax.set(xscale="log", xlabel="training images", title=f"{labels} labels", ylim=(-0.03, 1))
        ax.set_xticks(runs.SIZES, [f"{n:,}" for n in runs.SIZES])
        ax.minorticks_off()
    panels[0].set(ylabel="share of errors")
    panels[0].legend(fontsize=8, loc="center left")
    show_figure(fig, name="examples", data=data)


def draw_layer_growth(case: Case) -> None:
    """Figure 11: growth of squared norms, layer by layer, without and with batch normalisation."""
    fig, panels = axes(1, 2, height=3.3)
    data: dict = {}
    for ax, title, name in zip(panels, ("without_normalisation", "examples_2000"), ("no", "with"), strict=True):
        steps, squares = stored()[f"{title}__steps"], curve(title, "squared_norms")
        grown = (squares - squares[0])[:, 0]
        for k, color in enumerate(layer_colors(6)):
            label = "linear" if k == 5 else f"convolution {k + 1}"
            ax.plot(steps, grown[:, k], color=GREEN if k == 5 else color, linewidth=2, label=label)
            data[f"{name}_{label}"] = grown[:, k]
        flow = curve(title, "flow")[:, 0]
        ax.plot(steps, flow[:, 0], **PREDICTED, label="flow of a convolution")
        ax.set(xlabel="step", title=f"{name} normalisation")
        data[f"{name}_flow"] = flow[:, 0]
    panels[0].set(ylabel=r"$\|W_k\|^2-\|W_k(0)\|^2$")
    panels[1].set(ylim=(-2, 60))
    panels[0].legend(fontsize=7)
    show_figure(fig, name="layer-growth", data=data)


def draw_overfitting(case: Case) -> None:
    """Figure 12: loss and error in training and test, with and without normalisation."""
    fig, panels = axes(2, 2, height=5.0, sharex="col")
    data: dict = {}
    looks = {"test": SOLID, "train": MEASURED}
    for column, title, name in ((0, "channels_32", "with"), (1, "without_normalisation", "no")):
        steps = stored()[f"{title}__steps"]
        for row, quantity in enumerate(("loss", "error")):
            ax = panels[row, column]
            for part, look in looks.items():
                values = curve(title, f"{part}_{quantity}").mean(1)
                ax.plot(steps, values, **look, label="test" if part == "test" else "training")
                data[f"{name}_{part}_{quantity}"] = values
            ax.set(ylim=(0, None))
        panels[0, column].plot(steps, curve(title, "calibrated").mean(1), **PREDICTED, label="test, best temperature")
        panels[0, column].set(title=f"{name} normalisation")
        panels[1, column].set(xlabel="step")
    panels[0, 0].set(ylabel="cross-entropy")
    panels[1, 0].set(ylabel="share of errors")
    panels[0, 1].legend(fontsize=8)
    show_figure(fig, name="overfitting", data=data)


def draw_predictors(case: Case) -> None:
    """Test error of digits against norm, normalised loss and plain training loss, for three kinds of networks."""
    fig, panels = axes(1, 3, height=2.9, sharey=True)
    data: dict = {}
    looks = (("He's start", "#2b7bba", "o"), ("twice that", "#d55e00", "s"), ("kicked", "#009e73", "^"))
    measures = ((runs.weight, "squared norm"), (normalised, "normalised loss"), (raw, "training loss"))
    for (gain, kick), (label, color, marker) in zip(KINDS, looks, strict=True):
        found = fitted(case, gain, kick)
        for ax, (of, name) in zip(panels, measures, strict=True):
            x = 2.302585093 - of(found) if name == "normalised loss" else of(found)
            draw = ax.plot if name == "squared norm" else ax.semilogx
            draw(x, error(found), marker, color=color, markersize=4, label=label)
            data[f"{label}_{name}"] = x
        data[f"{label}_test_error"] = error(found)
    for ax, label in zip(panels, ("squared norm", r"$\ln10$ less the normalised loss", "training loss"), strict=True):
        ax.set(xlabel=label)
    panels[1].invert_xaxis()
    panels[0].set(ylabel="test error")
    panels[0].legend(fontsize=8)
    show_figure(fig, name="predictors", data=data)
