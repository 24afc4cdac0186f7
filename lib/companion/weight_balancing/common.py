"""What several chapters of paper E share: pairs of exponents, random networks, and the sides of the balance.

Exponents of the update are functions of p and q, so that a control can take another one.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, hessian, jacrev, vmap

from claimbook.evidence import Case, shared
from normdyn.motion.flows import Params
from normdyn.networks.graphs import feedforward, layered_matrix, layered_weights, random_dag
from normdyn.networks.losses import square_loss
from normdyn.rescaling.flows import graph_regression
from normdyn.rescaling.group import (
    incoming_outgoing,
    largest_safe_exponent,
    multiplicative_update,
    orbit_regularizer,
    rescale,
    scatter,
)

EXPONENTS = ((1, 1), (2, 2), (1, 2), (2, 1), (3, 1.5), (1.5, 4), (2, 8))  # pairs (p, q), p = q, below and above


def paper_exponent(p: float, q: float) -> float:
    """E (10): one over four times the larger of the two."""
    return 1 / (4 * max(p, q))


def doubled_exponent(p: float, q: float) -> float:
    """Twice the paper's: of ENorm for p = q."""
    return 1 / (2 * max(p, q))


def twice_the_safe_exponent(p: float, q: float) -> float:
    """Twice the largest exponent at which the norm never rises: here it does."""
    return 2 * largest_safe_exponent(p, q)


class Problem(NamedTuple):
    """A network as the rescaling group sees it, with the norm to be made least."""

    W: Tensor  # (units, units), into row from column
    hidden: Tensor  # (units,), bool
    p: float
    q: float


@shared
def networks(case: Case, role: int | str, count: int | None = None) -> list[tuple[Tensor, Tensor]]:
    """Random graphs of 3 inputs, 6 hidden units, 2 outputs; weights spread over one to four powers of e."""
    draw, count = case.generator(role), count or {"quick": 6, "paper": 60}[case.profile]
    return [random_dag(draw, spread=(1.0, 2.0, 4.0)[k % 3]) for k in range(count)]


@shared
def problems(
    case: Case,
    role: int | str = "networks",
    exponents: tuple[tuple[float, float], ...] = EXPONENTS,
    count: int | None = None,
) -> list[Problem]:
    """Every network with every pair of exponents."""
    return [Problem(W, hidden, p, q) for p, q in exponents for W, hidden in networks(case, role, count)]


def sides(problem: Problem) -> tuple[Tensor, Tensor]:
    """What enters every hidden unit and what leaves it: the two sides of the balance, E (15)."""
    W, hidden, p, q = problem
    incoming, outgoing = incoming_outgoing(W, p=p, q=q)
    return incoming[hidden], outgoing[hidden]


def F(a: Tensor, problem: Problem) -> Tensor:
    """E (12) at the factors ``a``, one for each unit."""
    W, hidden, p, q = problem
    return orbit_regularizer(a[hidden].log(), W, hidden, p=p, q=q)


def update(problem: Problem, exponent=paper_exponent) -> Tensor:
    """The factors of one update, E (10), one on inputs and outputs."""
    W, hidden, p, q = problem
    return multiplicative_update(W, hidden, p=p, q=q, exponent=exponent(p, q))


def rescaled(problem: Problem, a: Tensor) -> Problem:
    """The network after a rescaling, E (6)."""
    return problem._replace(W=rescale(problem.W, problem.W[0], a)[0])


def stacks(problems: Sequence[Problem]) -> list[Problem]:
    """Neighbours of one graph size and one pair of exponents as one problem whose weights are stacked: saves time."""
    alike = groupby(problems, key=lambda s: (s.p, s.q, s.hidden.tolist()))
    groups = [list(group) for _, group in alike]
    return [group[0]._replace(W=torch.stack([s.W for s in group])) for group in groups]


def logarithmic_form(z: Tensor, problem: Problem) -> Tensor:
    """E (13) as it is printed: F as a function of the log factors of all units."""
    W, hidden, p, q = problem
    first = int(hidden.nonzero()[0])  # nothing enters an input
    inner = p * (z[first:, None] - z + W[first:].abs().log())
    return (q / p * inner.logsumexp(1)).exp().sum() / q


def minimisers(problems: Sequence[Problem], most: int = 200) -> list[Tensor]:
    """Log factors of least norm for all units, by Newton's method on the norm, E (13): it knows nothing of balance.

    A step is halved as long as it raises the norm. One that leads further out than 50 has no minimum to go to.
    """
    found = []
    for _, group in groupby(problems, key=lambda s: s.hidden.tolist()):
        some = list(group)
        W, hidden = torch.stack([s.W for s in some]), some[0].hidden
        p, q = (W.new_tensor(exponents) for exponents in zip(*((s.p, s.q) for s in some), strict=True))
        form = lambda x, W, p, q, hidden=hidden: logarithmic_form(scatter(x, hidden), Problem(W, hidden, p, q))
        value = lambda x, W, p, q, form=form: (q * form(x, W, p, q)) ** (1 / q)
        height, slope, bend = vmap(value), vmap(grad(value)), vmap(hessian(value))
        x = W.new_zeros(len(W), int(hidden.sum()))
        for _ in range(most):
            H = bend(x, W, p, q)
            unit = H.diagonal(dim1=1, dim2=2).rsqrt()
            H = unit[:, :, None] * H * unit[:, None] + 1e-13 * torch.eye(x.shape[1], dtype=x.dtype)
            step = unit * torch.linalg.solve(H, unit * slope(x, W, p, q))
            far = x.abs().amax(1, keepdim=True) > 50
            step = torch.where(far, 0.0, step / step.abs().amax(1, keepdim=True).clamp_min(1.0))
            start = height(x, W, p, q) * (1 + 1e-14)
            while (high := ~(height(x - step, W, p, q) <= start)).any() and step[high].abs().max() > 1e-12:
                step = torch.where(high[:, None], step / 2, step)
            x = x - step
            if step.abs().max() < 1e-12:
                break
        found += [scatter(one, hidden) for one in x]
    return found


def jacobian(problem: Problem, exponent=paper_exponent) -> Tensor:
    """Derivative of one update in the log factors of hidden units, z -> z + log a, by automatic differentiation."""
    W, hidden, _, _ = problem

    def step(x: Tensor) -> Tensor:
        z = scatter(x, hidden)
        return x + update(problem._replace(W=W * (z[:, None] - z).exp()), exponent).log()[hidden]

    return jacrev(step)(W.new_zeros(int(hidden.sum())))


def until_at_rest(problem: Problem, most: int = 3000) -> Problem:
    """The network after updates until no factor differs from one by more than 1e-14.

    A factor 0, of a unit that nothing leaves, is no rescaling: 1/10 stands for it, until the weights vanish.
    """
    for _ in range(most):
        a = update(problem)
        a = torch.where(a > 0, a, 0.1)
        if a.log().abs().max() < 1e-14 or problem.W[problem.W != 0].abs().min() < 1e-30:
            break
        problem = rescaled(problem, a)
    return problem


def linear(z: Tensor) -> Tensor:
    """The homogeneous activation without a kink: flows of its networks can be integrated to twelve digits."""
    return z


class Learner(NamedTuple):
    """A network with something to learn: weights and biases, its hidden units, its error on some rows of the data."""

    params: Params
    hidden: Tensor
    error: Callable[..., Tensor]


@shared
def learners(
    case: Case,
    role: int | str = "learners",
    activation: Callable[[Tensor], Tensor] = linear,
    *,
    hidden_bias: float = 0.0,
    loss: Callable[[Tensor, Tensor], Tensor] = square_loss,
    samples: int = 20,
    count: int = 5,
) -> list[Learner]:
    """Random graphs of 3 inputs, 5 hidden units, 2 outputs that learn Gaussian data, the same for every activation."""
    draw, options = case.generator(role), {"hidden_bias": hidden_bias, "loss": loss, "samples": samples}
    return [Learner(*graph_regression(draw, activation=activation, **options)) for _ in range(count)]


@shared
def layered_learners(
    case: Case,
    role: int | str = "layers",
    activation: Callable[[Tensor], Tensor] = linear,
    widths: tuple[int, ...] = (3, 4, 4, 2),
    *,
    samples: int = 20,
    count: int = 5,
) -> list[Learner]:
    """Layered networks without skip connections that learn Gaussian data; all biases begin at zero."""
    draw, found = case.generator(role), []
    for _ in range(count):
        W, hidden = layered_matrix(layered_weights(widths, draw, gain=1.0))
        X, Y = (torch.randn(samples, width, generator=draw, dtype=W.dtype) for width in (widths[0], widths[-1]))

        def error(params: Params, rows=slice(None), *, edges=W != 0, hidden=hidden, X=X, Y=Y) -> Tensor:
            out = feedforward(params["W"] * edges, params["b"], X[rows], hidden, activation=activation)
            return square_loss(out, Y[rows])

        found.append(Learner({"W": W, "b": torch.zeros_like(W[0])}, hidden, error))
    return found


def written_out(W: Tensor, p: float, q: float) -> Tensor:
    """E (51) as it is printed, to stand against the library's own way; an absent edge has no derivative."""
    present = W != 0
    sums = torch.where(present, torch.where(present, W, 1.0).abs() ** p, 0.0).sum(1)
    some = sums > 0
    return torch.where(some, torch.where(some, sums, 1.0) ** (q / p), 0.0).sum() / q
