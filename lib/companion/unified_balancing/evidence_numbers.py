"""Numbers that the prose of the chapter on empirical evidence quotes, rounded, by the names it calls them."""

from dataclasses import replace

from torch import Tensor

from claimbook.evidence import Case
from companion.unified_balancing import evidence_drawings as drawings
from companion.unified_balancing.convolutional import descent
from companion.unified_balancing.evidence import FEW, LEAKY, SETTLED, total

RELU, BATCHNORM = "data/results/paper/layer-norms-relu.npz", "data/results/paper/layer-norms-batchnorm.npz"
LAST = slice(-100, None)


def of_figure_1a(case: Case) -> dict[str, str]:
    """What the prediction misses of the rates, early and late, in the median over steps; by layer and in all."""
    run = descent(case, FEW)
    share = ((run["quotient"] - run["flow"]) / run["quotient"]).abs()
    whole = ((total(run["quotient"]) - total(run["flow"])) / total(run["quotient"])).abs()
    median = lambda x, steps: 100 * x[steps].median(0).values
    early, late = slice(SETTLED, 40), LAST
    listed = lambda x, digits: " %, ".join(f"{value:.{digits}f}" for value in x.mean(0).tolist())
    return {
        "a-close": f"{median(whole, early).max():.1f}",
        "a-apart": f"{median(whole, late).min():.0f}",
        "a-early": listed(median(share, early), 1),
        "a-late": listed(median(share, late), 0),
        "a-first": f"{100 * whole[0].min():.0f}",
    }


def of_figure_1b(case: Case) -> dict[str, str]:
    """What the layers below the normalisation gain, and what the total misses late, with epsilon and without."""
    leaky, ideal = (descent(case, replace(LEAKY, epsilon=e)) for e in (1e-5, 0.0))
    grown = lambda run: 100 * LEAKY.learning_rate * run["quotient"].sum(0) / run["square"][0]
    gap = lambda run: (total(run["quotient"]) - run["drive"]) / total(run["quotient"])
    tail = lambda run: 100 * gap(run)[-50:].median(0).values
    return {
        "b-creep": " %, ".join(f"{x:.1f}" for x in grown(leaky)[:, :3].mean(0)),
        "b-readout": f"{grown(leaky)[:, 3].mean():.0f}",
        "b-ideal": f"{grown(ideal)[:, :3].max():.1f}",
        "b-late": f"{tail(leaky).min():.1f} % to {tail(leaky).max():.1f} %",
        "b-late-ideal": f"{tail(ideal).max():.1g}",
    }


def of_large_weights(case: Case) -> dict[str, str]:
    """Loss at the first and the last step with weights of He."""
    loss = drawings.tried(case)["weights of He"]["loss"]
    return {"he-loss": f"{loss[0].item():.0f}", "he-end": f"{loss[-1].item():.2g}"}


def of_photographs() -> dict[str, str]:
    """What the prediction misses in the stored runs on the papers' images, and where these come from."""
    (relu, relu_origin), (batchnorm, batchnorm_origin) = drawings.stored(RELU), drawings.stored(BATCHNORM)
    made = "Figure {}: {images} images, {steps} steps. {}"
    low = batchnorm["quotient"][10:, :3].abs().max() / total(batchnorm["quotient"])[10:].max()
    return {
        "stored": made.format("1a", relu_origin.summary(), **relu_origin.setup)
        + " "
        + made.format("1b", batchnorm_origin.summary(), **batchnorm_origin.setup),
        "photo-a": away(relu, 180),
        "photo-b": away(batchnorm, 100),
        "photo-low": f"{100 * low:.1f}",
    }


def away(run: dict[str, Tensor], end: int) -> str:
    """What the prediction of the total rate misses early and late, in the median over steps."""
    gap = 100 * ((total(run["quotient"]) - total(run["flow"])) / total(run["quotient"])).abs()
    early, late = (gap[steps].median().item() for steps in (slice(20, end), LAST))
    return f"{early:.1f} % between steps 20 and {end} and {late:.1f} % over the last {-LAST.start}"
