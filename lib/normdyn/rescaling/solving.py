"""Which solver a rescaling problem goes to, and which of its classes have no best factor.

Source: ours.
"""

import math

import torch
from torch import Tensor

from normdyn.rescaling.assembly import Assembly
from normdyn.rescaling.certificate import certified_gap
from normdyn.rescaling.infinite import least_infinite
from normdyn.rescaling.minimum import Minimum, minimum_norm
from normdyn.rescaling.problems import RescalingProblem, VacuousUnit
from normdyn.rescaling.shared import SharedProblem, reachable
from normdyn.shapes import Float

__all__ = ["NOTHING", "along_chain", "certificate", "solve", "vacuous"]

NOTHING = Minimum(
    torch.zeros(1, dtype=torch.float64), 0.0, 0, True,
    {name: torch.zeros(0, dtype=torch.float64) for name in ("norm", "imbalance", "gap")},
)  # fmt: skip


def solve(
    assembly: Assembly, p: float, q: float, tol: float, method: str, max_passes: int, bound: float = math.inf
) -> tuple[Minimum, dict[int, str]]:
    """The best factors of all classes, and the classes that have none, with the reason.

    Source: ours.
    """
    count, precise = len(assembly.numbers), tol < 1e-11
    if not assembly.layers:
        return NOTHING._replace(log_factors=torch.zeros(count, dtype=torch.float64)), {}
    chain = assembly.chain if bound == math.inf and math.inf not in (p, q) else None
    if chain is not None:
        try:
            return along_chain(assembly, chain, p, q, tol, method, max_passes), {}
        except VacuousUnit:
            pass  # that unit stays, and the others are no chain
    finite = [1 if value == math.inf else value for value in (p, q)]
    problem = SharedProblem(assembly.layers, count, p=finite[0], q=finite[1], precise=precise, bound=bound)
    kept = vacuous(problem)
    reasons = {int(assembly.numbers[k]): reason for k, reason in kept.items()}
    if math.inf in (p, q):
        layers = [layer._replace(values=layer.values.cpu()) for layer in assembly.layers]
        return least_infinite(layers, count, p=p, q=q, kept=kept, bound=bound, tolerance=tol), reasons
    problem.hidden[list(kept)] = False
    return minimum_norm(problem, method=method, tolerance=tol, max_passes=max_passes), reasons


def along_chain(
    assembly: Assembly, chain: list[Float[Tensor, "_ _"]], p: float, q: float, tol: float, method: str, max_passes: int
) -> Minimum:
    """The best factors of a layered network, by the faster solver for those.

    Source: ours.
    """
    layered = RescalingProblem.layered(chain, p=p, q=q, precise=tol < 1e-11)
    found = minimum_norm(layered, method=method, tolerance=tol, max_passes=max_passes)
    z = torch.zeros(len(assembly.numbers), dtype=torch.float64)
    for units, layer in zip(layered.layers[1:-1], assembly.layers, strict=False):
        z[layer.target.flatten()] = found.log_factors[units].cpu()
    return found._replace(log_factors=z)


def certificate(
    assembly: Assembly, found: Minimum, kept: dict[int, str], p: float, q: float, bound: float
) -> float | None:
    """A bound on the relative gap between the norm found and the least, if there was something to find.

    Source: ours.
    """
    if not assembly.layers:
        return None
    if math.inf in (p, q):
        return found.history["gap"][-1].item()
    layers = [layer._replace(values=layer.values.cpu()) for layer in assembly.layers]
    problem = SharedProblem(layers, len(assembly.numbers), p=p, q=q, precise=True, bound=bound)
    problem.hidden[torch.isin(assembly.numbers, torch.tensor(list(kept)))] = False
    return math.expm1(certified_gap(problem, found.log_factors))


def vacuous(problem: SharedProblem) -> dict[int, str]:
    """Classes without a best factor, with the reason.

    Source: Saul, section 2, for single units.
    """
    alive = reachable(problem) & reachable(problem, backwards=True)
    if alive.all():
        return {}
    log_in, log_out = problem.traverse(torch.zeros(len(alive), dtype=torch.float64, device=alive.device))
    reasons = {}
    for k in (~alive).nonzero().flatten().tolist():
        if log_in[k] == -torch.inf:
            reasons[k] = "no nonzero weight enters it, so that no factor is best"
        elif log_out[k] == -torch.inf:
            reasons[k] = "no nonzero weight leaves it, so that no factor is best"
        else:
            reasons[k] = "no nonzero weights connect it with inputs or outputs, so that no factor is best"
    return reasons
