"""Figures of the chapter that counts symmetries."""

from dataclasses import replace

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, BROKEN, GREEN, INK, MEASURED, ORANGE, PREDICTED, PURPLE, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.normalization_geometry import symmetry_groups_runs as runs
from normdyn.symmetry.continuous import Architecture, predicted_symmetries

KINDS = {"scale": BLUE, "shift": GREEN, "columns": ORANGE, "gain": PURPLE, "ReLU": VERMILION}
LABELS = {"none": "none", "stored": "stored statistics", "batch": "BN", "layer": "LN", "group": "GN, 2 groups",
          "weight": "WN"}  # fmt: skip
BLOCK = Architecture((3, 6, 2), "batch", "tanh")
EXAMPLES = {
    r"BN, $\epsilon=0$": BLOCK,
    r"BN, $\epsilon=10^{-4}$": replace(BLOCK, epsilon=1e-4),
    r"LN, $\epsilon=0$": replace(BLOCK, normalizer="layer"),
}


def shown() -> list[Architecture]:
    """One dense block under each normalisation; with an epsilon where that changes the count."""
    some = [a for a in runs.panel() if a.affine and a.widths == (3, 6, 2) and not a.kernel]
    some = [a for a in some if a.epsilon == 0 or a.normalizer in ("batch", "layer", "group")]
    return sorted(some, key=lambda a: (list(LABELS).index(a.normalizer), a.epsilon, a.activation))


def draw_counts(case: Case) -> None:
    """Predicted symmetries kind by kind, and the measured count, of one dense block."""
    fig, ax = axes(width=7.0, height=4.6)
    columns, used = {"network": [], "measured": []} | {kind: [] for kind in KINDS}, set()
    for row, a in enumerate(shown()):
        left, parts, found = 0, predicted_symmetries(a), len(runs.space(case, a, "", 3, runs.seen_on(a)).basis)
        for kind, color in KINDS.items():
            columns[kind].append(parts.get(kind, 0))
            if parts.get(kind):
                name = {"gain": "gain against weights", "ReLU": "through a ReLU"}.get(kind, kind)
                label = None if kind in used else name
                ax.barh(row, parts[kind], left=left, color=color, alpha=0.75, label=label, height=0.7)
                used.add(kind)
                left += parts[kind]
        ax.plot(found, row, "o", color=INK, markerfacecolor="white", markersize=6, label=None if row else "measured")
        end = r", $\epsilon>0$" if a.epsilon else ""
        columns["network"].append(f"{LABELS[a.normalizer]}{end}, {a.activation.replace('relu', 'ReLU')}")
        columns["measured"].append(found)
    ax.set_yticks(range(len(shown())), columns["network"])
    ax.invert_yaxis()
    ax.set(xlabel="continuous symmetries", xlim=(0, 34))
    ax.legend(loc="upper right")
    ax.set_axisbelow(True)
    show_figure(fig, name="c-counts", data=columns)


def draw_spectra(case: Case) -> None:
    """Singular values of the Jacobian of three blocks; zeros are filled."""
    fig, panels = axes(1, 3, height=2.8, sharey=True)
    columns = {}
    for ax, (name, a) in zip(panels, EXAMPLES.items(), strict=True):
        found = runs.space(case, a, "spectra")
        values, rank = found.values.clamp_min(1e-18), len(found.values) - len(found.basis)
        at = torch.arange(1, len(values) + 1)
        ax.semilogy(at[:rank], values[:rank], "o", color=BLUE, markerfacecolor="none", markersize=4)
        ax.semilogy(at[rank:], values[rank:], "o", color=VERMILION, markersize=4)
        ax.text(at[-1], 3e-13, f"{len(found.basis)} zeros", color=VERMILION, ha="right")
        ax.set(title=name, xlabel="number")
        columns[name] = found.values
    panels[0].set(ylabel="singular value")
    show_figure(fig, name="c-spectra", data=columns)


def draw_null_vectors(case: Case) -> None:
    """The null space of a BN-ReLU block after blind row reduction, one null vector a row."""
    at, _, picture, _ = runs.found_blindly(case)
    edges = torch.tensor([0, *(value.numel() for value in at.params.values())]).cumsum(0) - 0.5
    titles = {"W0": "$W$", "b0": "$b$", "gain0": r"$\gamma$", "shift0": r"$\beta$", "V": "$V$", "c": "$c$"}
    fig, ax = axes(width=7.0, height=3.6)
    ax.grid(False)
    mesh = ax.imshow(torch.where(picture == 0, torch.nan, picture), cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    for edge in edges[1:-1]:
        ax.axvline(edge, color=INK, linewidth=0.7)
    ax.set_xticks((edges[1:] + edges[:-1]) / 2, [titles[name] for name in at.params])
    ax.set_yticks([2.5, 8.5, 14.5], ["scale\nof $w_i$", "shift\nof $b_i$", "through\nthe ReLU"])
    for edge in (5.5, 11.5):
        ax.axhline(edge, color=INK, linewidth=0.7)
    fig.colorbar(mesh, ax=ax, shrink=0.8)
    show_figure(fig, name="c-null-vectors", data={f"vector_{i}": row for i, row in enumerate(picture)})


def draw_broken(case: Case) -> None:
    """The largest of the singular values that vanish at epsilon = 0, against epsilon."""
    epsilons = runs.EPSILONS
    styles = [MEASURED, {"color": GREEN}, BROKEN, {"color": PURPLE}, {"color": ORANGE, "linestyle": ":"}]
    columns = {way: torch.tensor([runs.lifted(case, way, e) for e in epsilons.tolist()]) for way in runs.WAYS}
    fig, ax = axes(width=6.8, height=3.3)
    for (way, values), style in zip(columns.items(), styles, strict=True):
        ax.loglog(epsilons, values.clamp_min(1e-18), label=way, **style)
    guide = epsilons[:13]
    ax.loglog(guide, 4 * columns["BN, three batches"][0] * guide / guide[0], label="slope one", **PREDICTED)
    ax.set(xlabel=r"$\epsilon$", ylabel="singular value", ylim=(1e-18, 1e1))
    ax.legend(loc="center right", bbox_to_anchor=(1.0, 0.42), ncols=2)
    show_figure(fig, name="c-broken", data={"epsilon": epsilons} | columns)
