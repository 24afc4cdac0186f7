"""Figures of the chapter on special cases, and its table of architectures."""

import torch
from IPython.display import display

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, GREEN, MEASURED, PREDICTED, VERMILION, axes, layer_colors
from claimbook.show.notebook import show_figure
from companion.unified_balancing.coverage import BOUND, coverage
from companion.unified_balancing.layers import EPS, NORMS
from companion.unified_balancing.special_cases import DECAYS, TIMES, decaying, maps
from normdyn.networks.homogeneity import euler_order

MARKS = {"covered": ("o", BLUE), "with a change": ("s", GREEN), "not covered": ("X", VERMILION)}


def draw_coverage(case: Case) -> None:
    """Misses of the law of norms, one mark an architecture, one line a group of them."""
    rows = coverage(case)
    groups = list(dict.fromkeys(one.row.group for one in rows))
    height, seen = {}, dict.fromkeys(groups, 0)
    size = {group: sum(one.row.group == group for one in rows) for group in groups}
    for k, one in enumerate(rows):  # spread the marks of a group over its line
        group = one.row.group
        height[k] = groups.index(group) + 0.62 * (seen[group] / max(size[group] - 1, 1) - 0.5)
        seen[group] += 1
    floor = lambda miss: max(miss, 3e-17)
    fig, ax = axes(height=3.9)
    for verdict, (marker, color) in MARKS.items():
        some = [
            (floor(one.decisive), height[k], floor(one.printed)) for k, one in enumerate(rows) if one.verdict == verdict
        ]
        ax.plot([m for m, _, _ in some], [y for _, y, _ in some], marker, color=color, markersize=5.5, label=verdict)
        if verdict == "with a change":
            ax.hlines([y for _, y, _ in some], [m for m, _, _ in some], [p for _, _, p in some], color=color, lw=0.6)
            label = "the same, as printed"
            ax.plot([p for _, _, p in some], [y for _, y, _ in some], "s", color=color, fillstyle="none", label=label)
    ax.axvline(BOUND, **PREDICTED)
    ax.set_xscale("log")
    ax.set(yticks=range(len(groups)), yticklabels=groups, ylim=(len(groups) - 0.5, -0.5), xlim=(1e-17, 30))
    ax.set(xlabel=r"miss over $\|f\|\,\|\nabla_f L\|$, worst layer and draw")
    ax.grid(axis="y", visible=False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.42, 1.0), ncols=4, fontsize=8, columnspacing=1.0)
    columns = {"group": [one.row.group for one in rows], "architecture": [one.row.name for one in rows]}
    columns |= {"verdict": [one.verdict for one in rows], "as_printed": [one.printed for one in rows]}
    show_figure(fig, name="coverage", data=columns | {"decisive": [one.decisive for one in rows]})


def show_coverage(case: Case) -> None:
    """The table of architectures, as plain text and as HTML."""
    plain = lambda text: text.replace("$\\ell^1$", "ℓ¹").replace("$\\ell^\\infty$", "ℓ<sup>∞</sup>")
    note = lambda row: f"{row.group}{': ' if row.change else ''}{row.change}"
    cells = [
        (
            f'{plain(one.row.name)}<div class="verdict-text">{note(one.row)}</div>',
            one.verdict,
            one.kept,
            f"{one.printed:.0e}",
            f"{one.decisive:.0e}" if one.verdict == "with a change" else "–",
        )
        for one in coverage(case)
    ]
    titles = ("Architecture", "Verdict", "Layers", "Miss as printed", "Miss as changed")
    head = "<tr>" + "".join(f"<th>{title}</th>" for title in titles) + "</tr>"
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells)
    html = f'<div class="evidence-table"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
    listing = "\n".join(f"{c.row.group} | {c.row.name} | {c.verdict} | {c.kept}" for c in coverage(case))
    display({"text/plain": listing, "text/html": html}, raw=True)


def draw_normalisation(case: Case) -> None:
    """Squared norms below BatchNorm along the flow; and the order of LayerNorm with an eps against the input's size."""
    fig, (left, right) = axes(1, 2, height=2.9)
    decay, columns = DECAYS[0], {"time": TIMES}
    path = decaying(case, "last", 0.0, None, decay)
    for l, color in enumerate(layer_colors(4)):
        label = f"layer {l + 1}" if l < 3 else "readout"
        left.plot(TIMES, path[:, l], "o-", color=color, markersize=7 - l, label=label)
        columns[f"layer_{l + 1}"] = path[:, l]
    left.plot(TIMES, torch.exp(-2 * decay * TIMES), **PREDICTED, label=r"$e^{-2\delta t}$")
    left.set(xlabel="time", ylabel="squared norm over its start")
    left.legend(fontsize=8)
    z, sizes = maps(case)[0][:1, :1], torch.logspace(-5, 1, 25, dtype=torch.float64)
    norm = NORMS["LayerNorm"]
    orders = [euler_order(norm.own(EPS), c * z).value for c in sizes]
    foreseen = [norm.share(c * z, EPS).item() for c in sizes]
    right.loglog(sizes, orders, "o", color=MEASURED["color"], label="LayerNorm")
    right.loglog(sizes, foreseen, **PREDICTED, label=r"$\epsilon/(v+\epsilon)$")
    right.set(xlabel="scale of the input", ylabel="local order")
    right.legend(fontsize=8)
    show_figure(
        fig, name="normalisation", data=columns | {"scale": sizes, "order": orders, "predicted_order": foreseen}
    )
