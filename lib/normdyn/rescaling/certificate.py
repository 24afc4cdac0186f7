r"""How far a norm is from its minimum, at most: a proof by duality.

The logarithm of the norm is a maximum over flows: shares :math:`\sigma` of rows and :math:`\pi_r` of entries in a row,
with edges :math:`\varphi_{rj} = \sigma_r \pi_{rj}` from the class of column ``j`` to that of row ``r``,

.. math:: \log\|W\|_{p,q} = \max_{\sigma, \pi} \sum_{r,j} \varphi_{rj} \log|w_{rj}| + \tfrac{1}{q} H(\sigma)
          + \tfrac{1}{p} \sum_r \sigma_r H(\pi_r) + \sum_c z_c (\mathrm{in}_c - \mathrm{out}_c).

For a flow that every class passes on as it came, the last sum vanishes whatever ``z``: all norms on the orbit are at
least what is left. Near the minimum the maximiser is nearly such a flow. What is in excess at a class is sent on along
its strongest edges, until it comes to what is fixed; the loss is

.. math:: \tfrac{1}{q} \mathrm{KL}(\sigma' \| \sigma) + \tfrac{1}{p} \sum_r \sigma'_r \mathrm{KL}(\pi'_r \| \pi_r),

of second order in the excess. At the minimum balance is conservation: it is zero.

Source: ours; for ``p = q`` the dual is that of matrix balancing (Schneider and Zenios, 1990).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from normdyn.rescaling.shared import SharedProblem, logsumexp_by
from normdyn.shapes import Float, Int

__all__ = ["Edges", "certified_gap", "divergence", "route", "strongest"]


class Edges(NamedTuple):
    """For each class its strongest edge on one side: its row, its column and the logarithm of its flow."""

    row: Int[Tensor, " n"]
    column: Int[Tensor, " n"]
    flow: Float[Tensor, " n"]


def certified_gap(problem: SharedProblem, z: Float[Tensor, " n"]) -> float:
    """An upper bound on ``log(norm / least norm)``, of the rescaling by ``exp(z)``; infinite if no flow was found.

    Source: ours.

    Example:
        >>> from normdyn.rescaling.shared import Weights
        >>> one, none = torch.ones(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)
        >>> layers = [Weights(torch.full((1, 1, 1), w), *ends) for w, ends in ((8.0, (one, none)), (2.0, (none, one)))]
        >>> problem = SharedProblem(layers, 2, p=2, q=2)
        >>> abs(certified_gap(problem, torch.tensor([0.0, -0.5 * math.log(4)]).double())) < 1e-12
        True
        >>> abs(certified_gap(problem, torch.zeros(2).double()) - math.log(math.sqrt(68 / 32))) < 1e-12
        True
    """
    p, q, n = problem.p, problem.q, len(problem.hidden)
    row = torch.where(problem.hidden[problem.row], problem.row, 0)
    column = torch.where(problem.hidden[problem.column], problem.column, 0)
    sums = problem.sums(-p * z[problem.column])
    log_rows = q / p * sums + q * z[problem.row]
    log_share = log_rows - log_rows.logsumexp(0)
    base = torch.where(sums > -torch.inf, log_share - sums, -torch.inf)
    columns = problem.sums(base, transposed=True) - p * z[problem.column]
    excess = logsumexp_by(log_share, row, n).exp() - logsumexp_by(columns, column, n).exp()
    excess[0] = 0.0
    held = (z >= problem.bound) & (excess < 0) | (z <= -problem.bound) & (excess > 0)
    excess = torch.where(held, 0.0, excess)
    for nearest in (False, True):
        out, into = strongest(problem, row, column, base, z, nearest=nearest)
        parts = [
            route(excess.clamp_min(0), out, row[out.row]),
            route((-excess).clamp_min(0), into, column[into.column]),
        ]
        if not any(part is None for part in parts):
            break
    if any(part is None for part in parts):
        return math.inf
    changes: dict[tuple[int, int], list[float]] = {}
    for edges, amount in zip((out, into), parts, strict=True):
        assert amount is not None
        for k in amount.nonzero().flatten().tolist():
            edge = changes.setdefault((int(edges.row[k]), int(edges.column[k])), [edges.flow[k].exp().item(), 0.0])
            edge[1] += amount[k].item()
    return divergence(log_share.exp(), changes, p, q)


def strongest(
    problem: SharedProblem,
    row: Int[Tensor, " r"],
    column: Int[Tensor, " c"],
    base: Float[Tensor, " r"],
    z: Float[Tensor, " n"],
    *,
    nearest: bool,
) -> tuple[Edges, Edges]:
    """For each class its strongest edge outwards, and inwards.

    Args:
        nearest: Only edges that lead to classes fewer edges away from what is fixed: strongest ones may go in circles.

    Source: elementary.
    """
    n = len(problem.hidden)
    found = [Edges(torch.zeros(n).long(), torch.zeros(n).long(), torch.full((n,), -torch.inf).double()) for _ in "oi"]
    reached = [torch.arange(n) == 0 if nearest else torch.ones(n, dtype=torch.bool) for _ in "oi"]
    new = True
    while new:
        edges, new = _strongest(problem, row, column, base, z, reached), False
        for k, (before, now) in enumerate(zip(found, edges, strict=True)):
            better = (before.flow == -torch.inf) & (now.flow > -torch.inf)
            better[0] = False
            for old, each in zip(before, now, strict=True):
                old[better] = each[better]
            reached[k] = reached[k] | better
            new = new or (nearest and bool(better.any()))
    return found[0], found[1]


def _strongest(problem, row, column, base, z, reached) -> list[Edges]:
    best = [torch.full((2, len(of)), -torch.inf, dtype=torch.float64) for of in (column, row)]
    for block in problem.blocks:
        weights = block.weights if block.weights.ndim == 3 else block.weights[None]
        g, r, c = weights.shape
        rows = torch.arange(block.target.start, block.target.stop).reshape(g, r)
        columns = torch.arange(block.source.start, block.source.stop).reshape(g, c)
        flow = problem.p * weights.double().abs().log()
        flow += base[rows][:, :, None] - problem.p * z[problem.column[columns]][:, None]
        flow.masked_fill_(row[rows][:, :, None] == column[columns][:, None], -torch.inf)
        outwards = flow.masked_fill(~reached[0][row[rows]][:, :, None], -torch.inf)
        inwards = flow.masked_fill_(~reached[1][column[columns]][:, None], -torch.inf)
        for k, (each, here, there) in enumerate(((outwards, block.source, rows), (inwards, block.target, columns))):
            value, place = each.max(k + 1)
            best[k][0, here] = value.flatten()
            best[k][1, here] = there.gather(1, place).flatten().double()
    found = []
    for k, of in enumerate((column, row)):
        value, far = best[k]
        top = torch.full((len(problem.hidden),), -torch.inf, dtype=torch.float64).scatter_reduce(0, of, value, "amax")
        at = (value == top[of]).nonzero().flatten()
        near = torch.zeros(len(top), dtype=torch.long).index_copy(0, of[at], at)
        far = far[near].nan_to_num(0, 0, 0).long()
        found.append(Edges(far, near, top) if k == 0 else Edges(near, far, top))
    return found


def route(mass: Float[Tensor, " n"], edges: Edges, following: Int[Tensor, " n"]) -> Float[Tensor, " n"] | None:
    """How much each class sends on when all mass goes along one edge a class, until it is at what is fixed.

    Source: elementary.
    """
    total = torch.zeros_like(mass)
    for _ in range(len(mass) + 1):
        mass = mass.clone()
        mass[0] = 0.0
        if not mass.any():
            return total
        if (edges.flow[mass > 0] == -torch.inf).any():
            return None
        total += mass
        mass = torch.zeros_like(mass).index_add(0, following, mass)
    return None


def divergence(share: Float[Tensor, " r"], changes: dict[tuple[int, int], list[float]], p: float, q: float) -> float:
    """The loss of a flow whose edges are changed, given as flow and addition by row and column.

    Source: ours.
    """
    rows: dict[int, list[list[float]]] = {}
    for (row, _), edge in changes.items():
        rows.setdefault(row, []).append(edge)
    added = {row: sum(more for _, more in edges) for row, edges in rows.items()}
    total = math.log1p(sum(added.values()))
    between = -total  # of the shares of rows: every logarithm has this part
    within = 0.0
    for row, edges in rows.items():
        before, after = share[row].item(), share[row].item() + added[row]
        grown = math.log1p(added[row] / before)
        between += after * math.exp(-total) * grown
        for flow, more in edges:
            within += (flow + more) * (math.log1p(more / flow) - grown)
        within -= (before - sum(flow for flow, _ in edges)) * grown
    return max(0.0, between / q + within * math.exp(-total) / p)
