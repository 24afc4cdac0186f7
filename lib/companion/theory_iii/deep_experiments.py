"""What decides the claims of section 17 of paper D on deep networks: Figures 5, 6, 11 and 12, starts, kicks, losses.

Runs are in :mod:`companion.theory_iii.deep_experiments_runs`: on CIFAR-10 stored, two draws; on digits made here.
"""

import math

import torch
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, counterexample, equal, tendency, together
from companion.theory_iii import deep_experiments_runs as runs
from companion.theory_iii.deep_experiments_runs import BY_WIDTH, by_size, curve, ends, fitted, flow, growth, weight

STORED = "two draws of a stored run, 70 epochs at a constant rate"
CHANCE = 0.9


def signs(x: Tensor) -> Tensor:
    """Of changes from row to row."""
    return x.diff(dim=0).sign()


# Figure 5


@claim("D-fig5-parameter-count", control={"stride": 1})
def about_ten_thousand(case, stride=2):
    """Five convolutions with 16 channels and a linear layer have about 10,000 parameters: kernels of 3, stride 2.

    With stride 1 the linear layer alone has sixteen times as many.  D Fig. 5
    """
    return equal(
        measured=lambda: float(runs.parameters(16, stride)), predicted=lambda: 1e4,
        bound=0.025, reason="'approximately' read as: to two digits",
    )  # fmt: skip


@claim("D-sgd-global-minima", control={"channels": (4, 8)})
def no_label_is_wrong(case, channels=(32, 64)):
    """Over-parametrised networks end with no label wrong: 2,000 images of CIFAR-10, 32 and 64 channels.  D 17"""
    return equal(
        measured=lambda: ends(tuple(f"channels_{c}" for c in channels), "train_error"), predicted=lambda: 0.0,
        bound=1e-3, reason=f"a count; {STORED}",
    )  # fmt: skip


@claim("D-fig5a", control={"labels": "random"})
def more_examples_help(case, labels="true"):
    """With more training images the test error falls, in every draw: 500, 2,000 and 8,000 of CIFAR-10.  D Fig. 5 (a)"""
    return equal(
        measured=lambda: signs(ends(by_size(labels), "test_error")), predicted=lambda: -1.0,
        bound=1e-3, reason=f"a count; steps are ten binomial deviations and more; {STORED}",
    )  # fmt: skip


@claim("D-fig5b", control=[{"labels": "true"}, {"titles": ("channels_4",)}])
def random_labels_are_fitted_and_teach_nothing(case, labels="random", titles=("random_labels_500",)):
    """With random labels the test error is that of chance at every size, and 500 of them are fitted.  D Fig. 5 (b)"""
    return together(
        chance=equal(
            measured=lambda: ends(by_size(labels), "test_error"), predicted=lambda: CHANCE,
            bound=3 * (0.1 * CHANCE / runs.TESTS) ** 0.5 / CHANCE, margin=20,
            reason="three binomial deviations of 4,000 test images; true labels are twenty times as far away, no more",
        ),
        fit=equal(
            measured=lambda: ends(titles, "train_error"), predicted=lambda: 0.0,
            bound=4e-3, reason=f"two labels of 500; {STORED}",
        ),
    )  # fmt: skip


# Figure 6


@claim("D-fig6a", control={"quantity": "test_loss"})
def error_does_not_grow(case, quantity="test_error"):
    """With more parameters than images the error does not grow with their number, beyond what 4,000 tests resolve.

    8 to 64 channels and 2,000 images of CIFAR-10. The control is the risk.  D Fig. 6 (a)
    """
    noise = 3 * (0.7 * 0.3 / runs.TESTS) ** 0.5
    some = BY_WIDTH[1:]
    return at_most(
        left=lambda: [ends(some, quantity)[k + 1 :] for k in range(3)],
        right=lambda: [ends(some, quantity)[k].expand(3 - k, 2) + noise for k in range(3)],
        bound=1e-3, reason=f"three binomial deviations are added to the right side; {STORED}",
    )  # fmt: skip


def up_to_the_fit() -> list[float]:
    """The risk rises as long as wider networks fit more, and falls from then on."""
    return [1.0, 1.0, -1.0, -1.0]


def everywhere() -> list[float]:
    return [1.0, 1.0, 1.0, 1.0]


@claim("D-fig6b", printed={"shape": everywhere}, control=[{"quantity": "calibrated"}, {"error": "test_loss"}])
def risk_overfits_up_to_the_fit(case, shape=up_to_the_fit, quantity="test_loss", error="test_error"):
    """The risk rises up to the width that just fits and falls beyond, where it stays above its least; the error falls.

    4 to 64 channels, 2,000 images of CIFAR-10. At the best temperature nothing of it is left: the control.
    D Fig. 6 (b)
    """
    risk = lambda: ends(BY_WIDTH, quantity)
    best = lambda: ends(BY_WIDTH, "calibrated")
    return together(
        risk=equal(
            measured=lambda: signs(risk()), predicted=lambda: torch.tensor(shape()).double()[:, None].expand(4, 2),
            bound=1e-3, reason=f"a count of changes; {STORED}",
        ),
        above=equal(
            measured=lambda: (risk()[-1] > 1.1 * risk().amin(0)).double(), predicted=lambda: 1.0,
            bound=1e-3, reason=f"a count: a tenth or more, fixed beforehand; {STORED}",
        ),
        temperature=equal(
            measured=lambda: (best().amax(0) - best()[0] < 0.1 * (risk().amax(0) - risk()[0])).double(),
            predicted=lambda: 1.0,
            bound=1e-3, reason=f"a count: it rises by less than a tenth of what the risk does; {STORED}",
        ),
        error=equal(
            measured=lambda: (ends(BY_WIDTH, error)[-1] <= ends(BY_WIDTH, error).amin(0)).double(),
            predicted=lambda: 1.0,
            bound=1e-3, reason=f"a count: the widest network has the least error; {STORED}",
        ),
    )  # fmt: skip


@claim("D-fig6-explanation", control={"factors": (0.1, 10.0, 1.0)})
def product_says_nothing(case, factors=(0.1, 0.1, 0.1)):
    """The error is told by the product of the layers' norms. It is not: below a normalisation it may be anything.

    Convolutions over ten leave all outputs, and divide the product by a thousand. The control keeps the product.
    D Fig. 6
    """
    return counterexample(
        statement=equal(
            measured=lambda: runs.rescaled(case, factors)[3], predicted=lambda: runs.rescaled(case, factors)[2],
            bound=1e-10, reason="rounding",
        ),
        exact=lambda: 1 - math.prod(factors),
        same_outputs=equal(
            measured=lambda: runs.rescaled(case, factors)[1], predicted=lambda: runs.rescaled(case, factors)[0],
            bound=1e-10, reason="rounding of a normalised output",
        ),
    )  # fmt: skip


# Figure 11


@claim("D-fig11-left", printed={"of": growth}, control={"kind": "biased"})
def one_flow_for_all_layers(case, of=flow, kind="plain"):
    """Without normalisation the flow's share in the growth is the same in all layers, the linear one included.

    As printed, convolutions grow at the same rate, steps being finite. The control trains biases.  D Fig. 11, left
    """
    return equal(
        measured=lambda: [of(case, kind)[:, k] for k in range(3)],
        predicted=lambda: [of(case, kind)[:, -1] for _ in range(3)],
        bound=1e-12, reason="rounding of a sum over 48 steps; three draws, digits, float64",
    )  # fmt: skip


@claim("D-fig11-right", control={"setting": ("plain", 1e-4)})
def convolutions_grow_alike(case, setting=("normalised", 0.1)):
    """With batch normalisation all convolutions grow at the same rate. They do not: each by its own gradients.

    The largest growth of a convolution over the least, in each of three draws; the flow has no part in it. The control
    has no normalisation and small steps.  D Fig. 11, right
    """
    grown = lambda: growth(case, *setting)[:, :-1]
    by_books = lambda: runs.finite_step(case, *setting)[:, :-1] + flow(case, *setting)[:, :-1]
    return counterexample(
        statement=equal(
            measured=lambda: list(grown().amax(1)), predicted=lambda: list(grown().amin(1)),
            bound=1e-2, reason="'the same rate' read as: to one per cent",
        ),
        exact=lambda: (by_books().amax(1) / by_books().amin(1)).min() - 1,
        stands_still=equal(
            measured=lambda: flow(case, *setting)[:, :-1] if setting[0] == "normalised" else 0.0,
            predicted=lambda: 0.0, scale=lambda: growth(case, *setting)[:, -1:],
            bound=1e-8, reason="the normalisation's epsilon is 1e-12",
        ),
    )  # fmt: skip


@claim("D-fig11-explanation", control={"kind": "plain"})
def connectivity_explains(case, kind="normalised"):
    """Equation (43) moves the convolutions, and not the linear layer, for its connectivity. It is the other way round.

    With normalisation the convolutions' flow is zero; without, the linear layer obeys (43) as they do.  D section 17
    """
    obeys = lambda kind, k: (flow(case, kind)[:, k] / flow(case, kind)[:, -1]).mean()
    return counterexample(
        statement=equal(
            measured=lambda: [obeys(kind, k) for k in range(3)], predicted=lambda: [1.0] * 3,
            bound=1e-8, reason="the normalisation's epsilon is 1e-12",
        ),
        exact=lambda: 1.0 if kind == "normalised" else 0.0,
        linear=equal(
            measured=lambda: [obeys("plain", k) for k in range(3)], predicted=lambda: [1.0] * 3,
            bound=1e-12, reason="rounding of a sum over 48 steps",
        ),
    )  # fmt: skip


# Figure 12

TITLES = ("examples_500", "channels_16", "channels_32", "channels_64", "examples_8000")


def rises(case: Case, kind: str, share: float) -> list[Tensor]:
    """Logarithm of how much loss and error grow from the least loss to the end, or shrink up to it: pairs by draws."""
    pairs = [(curve(title, "test_loss"), curve(title, "test_error")) for title in TITLES]
    found = []
    digits = fitted(case, share=share)
    for group in (pairs, [(digits["test_loss"], digits["test_error"])]):
        columns = []
        for loss, error in group:
            best = loss.argmin(0)
            at = lambda x, rows: x.gather(0, rows[None])[0].log()
            first, last = (
                (torch.zeros_like(best), best) if kind == "before" else (best, torch.full_like(best, -1) % len(loss))
            )
            columns.append(torch.stack([at(x, last) - at(x, first) for x in (loss, error)]))
        found.append(torch.cat(columns, 1))
    return found


@claim("D-fig12", control={"kind": "before"}, untrained={"share": 0.05}, longer={"share": 2.0})
def loss_overfits_and_error_does_not(case, kind="after", share=1.0):
    """After its least value the test loss grows, and the error by less than half as much, in logarithms.  D Fig. 12

    Five stored runs on CIFAR-10 with normalisation, two draws of each; digits without, twelve draws. The control is the
    time before.
    """
    over = "CIFAR-10 and digits; ten and twelve runs, fixed beforehand"
    return together(
        loss=tendency(
            effect=lambda: [one[0] for one in rises(case, kind, share)],
            least=math.log(1.05), reason=f"the loss grows by a twentieth or more; {over}",
        ),
        error=tendency(
            effect=lambda: [0.5 * one[0] - one[1] for one in rises(case, kind, share)] if kind == "after"
            else [one[1] for one in rises(case, kind, share)],
            reason=f"the error grows by less than half of that; {over}",
        ),
    )  # fmt: skip


# Starts, kicks, and the normalised loss


def log_ratio(of, a, b) -> Tensor:
    return (of(b) / of(a)).log()


def error(found) -> Tensor:
    return found["test_error"][-1]


@claim("D-init-scale", control={"large": 1.0}, untrained={"share": 0.05}, longer={"share": 2.0})
def large_starts_end_worse(case, large=2.0, share=1.0):
    """Networks that start with twice He's scale end with a larger norm and a larger test error; all have fitted.

    Against He's scale and 0.7 of it; digits, twelve draws, 600 steps, labels fitted.  D section 17
    """
    pairs = lambda: [(fitted(case, gain, share=share), fitted(case, large, share=share)) for gain in (1.0, 0.7)]
    over = "two cells, twelve draws from the same random numbers"
    return together(
        norm=tendency(
            effect=lambda: [log_ratio(weight, a, b) for a, b in pairs()],
            least=math.log(1.5), reason=f"the squared norm is half as large again; {over}",
        ),
        error=tendency(effect=lambda: [log_ratio(error, a, b) for a, b in pairs()], reason=f"the test error; {over}"),
    )  # fmt: skip


@claim("D-perturbation-norm", control={"kick": 0.0}, untrained={"share": 0.05}, longer={"share": 2.0})
def kicks_end_worse(case, kick=runs.KICK, share=1.0):
    """Networks whose weights are kicked and trained on end with a larger norm and a larger test error.  D section 17

    Fifteen kicks of 0.3 of each layer's root mean square; digits, twelve draws, labels fitted.
    """
    pair = lambda: (fitted(case, share=share), fitted(case, perturbation=kick, share=share))
    over = "one cell, twelve draws from the same start"
    return together(
        norm=tendency(effect=lambda: [log_ratio(weight, *pair())], reason=f"the squared norm; {over}"),
        error=tendency(effect=lambda: [log_ratio(error, *pair())], reason=f"the test error; {over}"),
    )  # fmt: skip


def normalised(found) -> Tensor:
    return found["normalized_loss"]


def raw(found) -> Tensor:
    return found["train_loss"][-1]


KINDS = ((1.0, 0.0), (2.0, 0.0), (1.0, runs.KICK))  # gain and kicks; the last two have the same test error


def agreement(case: Case, predictor, among: str, share: float = 1.0) -> list[Tensor]:
    """Whether a predictor and the test error order two networks alike, plus or minus one, draw by draw.

    Among ``kinds``: the same draw of He's start and of another kind; among ``draws``: a draw and the next.
    """
    found = [fitted(case, gain, kick, share) for gain, kick in KINDS]
    if among == "kinds":
        pairs = [(found[0], other, 0) for other in found[1:]]
    else:
        pairs = [(one, one, 1) for one in found]
    change = lambda of, a, b, turn: of(b).roll(turn) - of(a)
    return [(change(predictor, *pair) * change(error, *pair)).sign() for pair in pairs]


@claim("D-normalized-loss-predicts", control={"among": "draws"}, untrained={"share": 0.05}, longer={"share": 2.0})
def normalised_loss_predicts(case, predictor=normalised, among="kinds", share=1.0):
    """Which of two networks has the smaller training loss after normalisation has the smaller test error.  D section 17

    He's start against twice that, and against a run with kicks; digits, twelve draws, labels fitted. Among draws of
    one kind it does not tell.
    """
    return tendency(
        effect=lambda: agreement(case, predictor, among, share),
        reason="two pairs of kinds, twelve draws; an agreement counts one, a disagreement minus one",
    )
