"""The figure of the chapter on normalisation as an algorithm."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.square_loss.normalization_algorithms import rows_along_the_flow


def draw_rows(case: Case) -> None:
    """Norms of five rows of a normalised layer along the flow, without epsilon and with a large one."""
    (exact, *_), (loose, *_) = rows_along_the_flow(case)[0], rows_along_the_flow(case, 1.0)[0]
    times, columns = torch.linspace(0, 8, len(exact)), {}
    fig, ax = axes(height=2.9, width=6.0)
    for i in range(exact.shape[1]):
        ax.plot(times, exact[:, i], **MEASURED, label=r"$\epsilon=0$" if i == 0 else None)
        ax.plot(times, loose[:, i], **BROKEN, label=r"$\epsilon=1$" if i == 0 else None)
        columns |= {f"row_{i}": exact[:, i], f"epsilon_row_{i}": loose[:, i]}
    ax.axhline(1, **PREDICTED, label="normalised rows")
    ax.set(xlabel="flow time", ylabel="norm of a row", ylim=(0, None))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    show_figure(fig, name="bn-rows", data={"time": times} | columns)
