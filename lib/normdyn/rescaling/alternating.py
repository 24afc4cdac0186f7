r"""One pass over a layered network in two halves: every second layer moves, then the others, which see it.

Units of a layer interact only with the layers next to theirs, so half of the layers can move at once without
disturbing one another. A half moved by a safe exponent never increases the norm; for ``p = q`` it goes to the exact
minimum over its layers, and what is left is a problem in the other half alone, whose condition number is about a
quarter. Extrapolation then needs half as many passes as over parallel updates: Reid's observation on conjugate
gradients, *The use of conjugate gradients for systems of linear equations possessing "Property A"* (1972).

For ``p = q`` a sweep reads every matrix once for row sums or column sums of each layer: one pass. Else the row sums of
matrices between the halves are needed once more, see :attr:`Halves.passes`.

Source: ours, but for Reid's observation.
"""

import math

import torch
from torch import Tensor

from normdyn.rescaling.problems import RescalingProblem, check_alive
from normdyn.shapes import Float

__all__ = ["Halves", "Sweep"]


class Halves:
    """Which layers move first, and what a sweep costs: the matrices read twice are the smaller ones.

    Attributes:
        first, second: Hidden layers by number, inputs being layer 0.
        passes: Cost of one sweep; a pass is one reading for row sums and one for column sums.
        safe: The exponent up to which no half can increase the norm of any network, ``1 / (q + max(p, q))``.
        later: One for the units of the second half, zero for all others.
    """

    def __init__(self, problem: RescalingProblem):
        hidden = range(1, len(problem.blocks))
        self.same = problem.p == problem.q
        again = [sum(problem.blocks[l - 1].weights.numel() for l in hidden if l > 1 and l % 2 == odd) for odd in (0, 1)]
        odd = int(again[1] < again[0])  # this parity moves second
        self.first, self.second = ([l for l in hidden if l % 2 == side] for side in (1 - odd, odd))
        entries = sum(block.weights.numel() for block in problem.blocks)
        self.passes = 1.0 if self.same else 1 + again[odd] / (2 * entries)
        self.safe = 1 / (problem.q + max(problem.p, problem.q))
        self.later = torch.zeros(len(problem.hidden), dtype=torch.float64, device=problem.hidden.device)
        for l in self.second:
            self.later[problem.layers[l]] = 1.0


class Sweep:
    r"""What one sweep from ``z`` says about ``z``, and where it goes.

    Before it moves anything, the sweep minimises over rescalings that are constant on layers: the layers' totals
    :math:`T_\ell = \sum_{i \in \ell} \rho_i` all become their geometric mean.

    Args:
        exponent: Of the update ``a = (out / in) ** exponent`` of both halves.

    Attributes:
        z: The point with its layers equalised.
        log_norm, log_start: There, and before that.
        step, exponent: From ``z`` to the end of the sweep, and the exponent that made it.
        gradient, weight: Of the logarithm of the norm, and the sum of both sides of the balance as shares of the norm:
            at ``z`` for the first half, for the second after the first has moved.
        gain: Slope times step of the first half, twice what its update gains near the minimum.
        largest: Largest ``|log(out / in)|`` met.

    Raises:
        VacuousUnit: Nothing enters or nothing leaves a hidden unit.
        ValueError: A weight is not finite.
    """

    def __init__(self, problem: RescalingProblem, halves: Halves, start: Float[Tensor, " n"], exponent: float):
        p, q, blocks = problem.p, problem.q, problem.blocks
        depth, z = len(blocks), [start[units] for units in problem.layers]
        rows, incoming, outgoing, totals = {}, {}, {}, []

        def read_rows(l: int) -> None:
            rows[l] = blocks[l - 1].sums(-p * z[l - 1])
            incoming[l] = q / p * (rows[l] + p * z[l])

        def read_columns(l: int) -> None:
            share = p * z[l + 1]
            if not halves.same:
                share = torch.where(rows[l + 1] > -torch.inf, incoming[l + 1] - rows[l + 1], -torch.inf)
            outgoing[l] = blocks[l].sums(share, transposed=True) - p * z[l]

        for l in range(1, depth + 1):
            below = l - 1 in halves.first
            if not (below and halves.same):  # else the matrix' total is known from its columns
                read_rows(l)
            if below:
                read_columns(l - 1)
            totals.append((outgoing[l - 1] if below and halves.same else incoming[l]).logsumexp(0).item())

        mean = sum(totals) / depth
        change = [mean - total for total in totals]
        shift = [0.0]
        for l in range(1, depth):
            shift.append(shift[-1] + change[l - 1] / q)
            z[l] = z[l] + shift[l]
        for l in incoming:
            incoming[l] += change[l - 1]
            rows[l] -= p * shift[l - 1]
        for l in outgoing:
            outgoing[l] += change[l]
        log_total = mean + math.log(depth)
        self.z, self.log_norm = torch.cat(z), log_total / q
        top = max(totals)
        self.log_start = (top + math.log(sum(math.exp(total - top) for total in totals))) / q

        self.exponent, self.later = exponent, halves.later
        step, gradient, weight = ([torch.zeros_like(part) for part in z] for _ in range(3))
        imbalances = []

        def move(l: int) -> None:
            imbalance = outgoing[l] - incoming[l]
            share_in, share_out = (incoming[l] - log_total).exp_(), (outgoing[l] - log_total).exp_()
            gradient[l], weight[l], step[l] = share_in - share_out, share_in + share_out, exponent * imbalance
            z[l] = z[l] + step[l]
            imbalances.append(imbalance)

        for l in halves.first:
            move(l)
        for l in halves.second:
            if l > 1:
                read_rows(l)
            if not halves.same:
                incoming[l + 1] = q / p * (rows[l + 1] + p * z[l + 1])
            read_columns(l)
            move(l)
        self.gain = sum(abs((gradient[l] @ step[l]).item()) for l in halves.first)
        self.step, self.gradient, self.weight = torch.cat(step), torch.cat(gradient), torch.cat(weight)
        self.largest = torch.cat(imbalances).abs().max().item() if imbalances else 0.0
        if not math.isfinite(self.log_norm + self.largest):
            check_alive(*problem.traverse(start), problem.hidden)

    def decrease(self, step: Float[Tensor, " n"]) -> float:
        """What the logarithm of the norm has to lose, estimated from a step towards the minimum.

        The first half's part is what its own update gains; a step of both halves at once would mix the two.
        """
        return 0.5 * (self.gain + abs((self.gradient * self.later @ step).item()))

    def improves(self, old: "Sweep", rounding: float) -> bool:
        """Whether the norm is lower; where rounding hides that, whether a sweep has less left to gain."""
        change = self.log_norm - old.log_norm
        if abs(change) > 16 * rounding:
            return change < 0
        return self.decrease(self.step) * old.exponent <= old.decrease(old.step) * self.exponent
