"""Layers whose entries are tied, as those of convolutions: what gradient flow balances, and when the operator is.

Beside the claim on convolutions of paper A stands what is ours: a condition that is necessary and sufficient.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from claimbook.evidence import Case, claim, equal, shared, together
from normdyn.motion.flows import gradient, gradient_flow, integrate
from normdyn.networks.losses import square_loss
from normdyn.norms.laws import gramian_balance, operator_matrix

DECAY, TIMES = 0.2, (0.0, 0.5, 1.0)
POSITIONS = 6
ZERO = 1e-9  # of a rate relative to its parts: rounding leaves 1e-14, a broken law 1e-3 and more


# Two layers that depend linearly on kernels


class Tied(NamedTuple):
    """Two layers, as one matrix for each entry of a kernel."""

    first: Tensor  # (entries, units between, inputs)
    second: Tensor  # (entries, outputs, units between)


def three_units() -> Tied:
    """Three units between two layers, of which two share their weights: J(k) = (k1, k1, k2)' and (c1, c1, c2)."""
    shared_weights = torch.tensor([[1.0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    return Tied(shared_weights[:, :, None], shared_weights[:, None, :])


def entries(taps: Tensor, outputs: int, inputs: int) -> Tensor:
    """Matrices of a kernel's entries, from one matrix for each tap."""
    corner = torch.eye(outputs * inputs, dtype=torch.float64).reshape(-1, outputs, inputs)
    return torch.stack([torch.kron(E, A) for E in corner for A in taps])


@shared
def families(case: Case) -> dict[str, Tied]:
    """Ties of several kinds: free matrices, convolutions of two layouts, random ties, and the three units."""
    draw = case.generator("ties")
    random = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)
    free = torch.eye(1, dtype=torch.float64)[None]
    ring, second = (ties(Layer(None, 3, stride), 3) for stride in (1, 3))
    edge, inner = ties(Layer(1, 3), 3), ties(Layer(0, 2), 3)
    return {
        "free": Tied(entries(free, 3, 2), entries(free, 2, 3)),
        "circular": Tied(entries(ring, 2, 1), entries(ring, 1, 2)),
        "circular, second strided": Tied(entries(ring, 2, 1), entries(second, 1, 2)),
        "padded, then not": Tied(entries(edge, 2, 1), entries(inner, 1, 2)),
        "random": Tied(random(3, 3, 2), random(4, 2, 3)),
        "three units": three_units(),
    }


class Path(NamedTuple):
    """Both kernels along a flow."""

    first: Tensor
    second: Tensor


@shared
def followed(case: Case) -> list[Path]:
    """Gradient flow with weight decay of each family, below a tanh and a readout that stays."""
    found, draw = [], case.generator("followed")
    random = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)
    for J, C in families(case).values():
        X, Y, readout = random(10, J.shape[2]), random(10, 2), random(2, C.shape[1])
        both = lambda p, J=J, C=C: torch.tensordot(p["c"], C, 1) @ torch.tensordot(p["k"], J, 1)
        loss = lambda p, X=X, Y=Y, A=readout, both=both: square_loss(torch.tanh(X @ both(p).mT) @ A.mT, Y)
        path = integrate(gradient_flow(loss, weight_decay=DECAY), {"k": random(len(J)), "c": random(len(C))}, TIMES)
        found.append(Path(path["k"], path["c"]))
    return found


# Pairs (P, R) of symmetric maps of the kernels


Pair = tuple[Tensor, Tensor]


def symmetric_basis(n: int) -> Tensor:
    """Symmetric matrices of size n, orthonormal."""
    units = torch.eye(n, dtype=torch.float64)
    pairs = [(a, b) for a in range(n) for b in range(a, n)]
    outer = torch.stack([torch.outer(units[a], units[b]) for a, b in pairs])
    both = outer + outer.mT
    return both / both.flatten(1).norm(dim=1)[:, None, None]


def null_space(A: Tensor, tolerance: float = 1e-12) -> Tensor:
    """Orthonormal columns that A sends to zero: rounding leaves 1e-15 of a square, other columns 1e-6 and more."""
    values, vectors = torch.linalg.eigh(A.mT @ A)
    return vectors[:, values <= tolerance * values[-1].clamp_min(1e-12)]


def split(columns: Tensor, first: Tensor, second: Tensor) -> list[Pair]:
    """Coefficients as pairs of matrices."""
    mix = lambda c, basis: torch.tensordot(c, basis, 1)
    return [(mix(c[: len(first)], first), mix(c[len(first) :], second)) for c in columns.mT]


def exchangeable(tied: Tied) -> list[Pair]:
    """All symmetric (P, R) with J'(c) J(P k) = J'(R c) J(k) for all kernels: a basis."""
    ends = torch.einsum("boi,ain->baon", tied.second, tied.first)
    first, second = symmetric_basis(len(tied.first)), symmetric_basis(len(tied.second))
    moved = torch.einsum("spa,bpon->sbaon", first, ends)
    pulled = torch.einsum("sqb,qaon->sbaon", second, ends)
    return split(null_space(torch.cat([moved, -pulled]).flatten(1).mT), first, second)


def actions(images: Tensor, M: Tensor) -> Tensor:
    """The maps of a kernel that make of J(k) what M makes of it, M acting from the left; one for each M."""
    flat = images.flatten(1)
    turned = torch.einsum("eij,ajn->eain", M, images).flatten(2)
    return torch.einsum("ean,bn->eba", turned, torch.linalg.pinv(flat.mT))


def acting(tied: Tied, transposed: bool) -> tuple[Tensor, Tensor]:
    """Actions on both kernels of all M that have them, a basis; transposed: of those whose transposes have them too."""
    n, second = tied.first.shape[1], tied.second.mT
    M = torch.eye(n * n, dtype=torch.float64).reshape(-1, n, n)
    rows = []
    for images, E in [(tied.first, M), (second, M.mT)] + [(tied.first, M.mT), (second, M)] * transposed:
        outside = torch.eye(images[0].numel(), dtype=torch.float64) - proj(images.flatten(1))
        rows.append((torch.einsum("eij,ajn->eain", E, images).flatten(2) @ outside).flatten(1))
    allowed = torch.tensordot(null_space(torch.cat(rows, 1).mT).mT, M, 1)
    return actions(tied.first, allowed), actions(second, allowed.mT)


def symmetric(P: Tensor, R: Tensor) -> list[Pair]:
    return list(zip((P + P.mT) / 2, (R + R.mT) / 2, strict=True))


def acting_both_ways(tied: Tied) -> list[Pair]:
    """Where M and its transpose act on both kernels: the symmetric parts of the actions of M, which is not enough."""
    return symmetric(*acting(tied, True))


def with_adjoints(tied: Tied) -> list[Pair]:
    """Where the adjoints of both actions of M are the actions of one matrix: the symmetric parts of its actions."""
    P, R = acting(tied, False)
    flat = lambda A, B: torch.cat([A.flatten(1), B.flatten(1)], 1)
    mixes = null_space(torch.cat([flat(P.mT, R.mT), -flat(P, R)]).mT)[: len(P)].mT
    return symmetric(torch.tensordot(mixes, P, 1), torch.tensordot(mixes, R, 1))


def proj(rows: Tensor) -> Tensor:
    """Onto the span of some rows."""
    return torch.linalg.pinv(rows) @ rows


@shared
def pairs_of(case: Case, rule: Callable[[Tied], list[Pair]]) -> list[list[Pair]]:
    """The pairs of each family that a rule names."""
    return [rule(tied) for tied in families(case).values()]


@shared
def numbers(case: Case, rule: Callable[[Tied], list[Pair]]) -> list[Tensor]:
    """The numbers <k, P k> - <c, R c> along the flow of each family, in units of a squared kernel; a column a pair."""
    found = []
    for path, pairs in zip(followed(case), pairs_of(case, rule), strict=True):
        P, R = (torch.stack(column) for column in zip(*pairs, strict=True))
        first = torch.einsum("ta,sab,tb->ts", path.first, P, path.first)
        found.append(
            (first - torch.einsum("ta,sab,tb->ts", path.second, R, path.second)) / path.first[0].square().sum()
        )
    return found


@shared
def kept_at_random(case: Case) -> list[int]:
    """How many independent (P, R) there are whose number stands still, at random kernels and for random losses."""
    found, draw = [], case.generator("rates")
    random = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)
    for J, C in families(case).values():
        first, second = symmetric_basis(len(J)), symmetric_basis(len(C))
        rows = []
        for _ in range(3 * (len(first) + len(second))):
            X, Y = random(10, J.shape[2]), random(10, C.shape[1])
            both = lambda p, J=J, C=C: torch.tensordot(p["c"], C, 1) @ torch.tensordot(p["k"], J, 1)
            params = {"k": random(len(J)), "c": random(len(C))}
            g = gradient(lambda p, X=X, Y=Y, both=both: square_loss(X @ both(p).mT, Y))(params)
            rate = lambda basis, name, g=g, p=params: torch.einsum("sab,a,b->s", basis, g[name], p[name])
            rows.append(torch.cat([rate(first, "k"), -rate(second, "c")]))
        A = torch.stack(rows)
        found.append(null_space(A / A.norm(dim=1, keepdim=True)).shape[1])
    return found


@claim("O-tied-balance", control={"rule": acting_both_ways, "symmetries": acting_both_ways})
def tied_layers_balance(case, rule=exchangeable, symmetries=with_adjoints):
    """<k, P k> - <c, R c> decays as exp(-2 delta t) for every loss if and only if J'(c) J(P k) = J'(R c) J(k).

    Symmetries give such pairs where the adjoints of both actions of a matrix M are the actions of one matrix. The
    control asks instead that M and its transpose act on both kernels, whatever the adjoints.
    """
    shrinking = torch.exp(-2 * DECAY * torch.tensor(TIMES[1:], dtype=torch.float64))[:, None]
    return together(
        kept=equal(
            measured=lambda: [found[1:] for found in numbers(case, rule)],
            predicted=lambda: [shrinking * found[0] for found in numbers(case, rule)],
            scale=lambda: [torch.ones_like(found[1:]) for found in numbers(case, rule)],
            bound=1e-11, reason="DOP853 with a relative tolerance of 1e-12 a step, in units of the squared kernel",
        ),
        by_symmetry=equal(
            measured=lambda: [found[1:] for found in numbers(case, symmetries)],
            predicted=lambda: [shrinking * found[0] for found in numbers(case, symmetries)],
            scale=lambda: [torch.ones_like(found[1:]) for found in numbers(case, symmetries)],
            bound=1e-11, reason="as above",
        ),
        no_others=equal(
            measured=lambda: kept_at_random(case),
            predicted=lambda: [independent(pairs) for pairs in pairs_of(case, rule)],
            bound=1e-9, reason="whole numbers: dimensions of null spaces, in six families of ties",
        ),
    )  # fmt: skip


def independent(pairs: list[Pair]) -> int:
    """How many of some pairs are linearly independent."""
    flat = torch.stack([torch.cat([P.flatten(), R.flatten()]) for P, R in pairs])
    return int(torch.linalg.matrix_rank(flat, rtol=1e-9))


# Convolutions on six positions


class Layer(NamedTuple):
    """A one-dimensional convolution; without padding it is circular."""

    padding: int | None
    taps: int
    stride: int = 1
    dilation: int = 1


Layout = tuple[Layer, Layer]


def convolve(H: Tensor, K: Tensor, layer: Layer) -> Tensor:
    """H is (batch, channels, positions)."""
    if layer.padding is not None:
        return functional.conv1d(H, K, padding=layer.padding, stride=layer.stride, dilation=layer.dilation)
    reach = layer.dilation * (layer.taps - 1)
    H = H[..., torch.arange(H.shape[-1] + reach) % H.shape[-1]]
    return functional.conv1d(H, K, stride=layer.stride, dilation=layer.dilation)


def positions_after(layer: Layer, n: int) -> int:
    if layer.padding is None:
        return -(-n // layer.stride)
    return (n + 2 * layer.padding - layer.dilation * (layer.taps - 1) - 1) // layer.stride + 1


def ties(layer: Layer, n: int) -> Tensor:
    """For each tap the matrix of zeros and ones that says which position reads which, by counting."""
    m, pad = positions_after(layer, n), layer.padding or 0
    A = torch.zeros(layer.taps, m, n, dtype=torch.float64)
    for tap, i in product(range(layer.taps), range(m)):
        j = i * layer.stride + tap * layer.dilation - pad
        if layer.padding is None:
            A[tap, i, j % n] += 1
        elif 0 <= j < n:
            A[tap, i, j] = 1
    return A


def defect(A: Tensor, B: Tensor) -> float:
    """How far sum_s A_s A_t' x B_r A_s is from sum_p B_r' B_p x B_p A_t, over all taps t and r: whole numbers."""
    left = torch.einsum("stij,rskl->rtijkl", torch.einsum("sip,tjp->stij", A, A), torch.einsum("rki,sil->rskl", B, A))
    right = torch.einsum("rpij,ptkl->rtijkl", torch.einsum("rki,pkj->rpij", B, B), torch.einsum("rki,til->rtkl", B, A))
    return (left - right).abs().max().item()


def by_criterion(layout: Layout) -> bool:
    """Whether the operators of two convolutions keep the law, from their ties alone."""
    A = ties(layout[0], POSITIONS)
    return defect(A, ties(layout[1], A.shape[1])) == 0


def full_circles_and_single_taps(layout: Layout) -> bool:
    """A condition that is too narrow here and too wide there."""
    one = all(layer.taps == 1 for layer in layout)
    circles = all(layer.padding is None for layer in layout)
    return one or (circles and layout[0].taps == POSITIONS and layout[1].taps == positions_after(layout[0], POSITIONS))


NAMED: dict[str, Layout] = {
    "circular, three taps": (Layer(None, 3), Layer(None, 3)),
    "zero-padded, three taps": (Layer(1, 3), Layer(1, 3)),
    "zero-padded, first strided": (Layer(1, 3, 2), Layer(1, 3)),
    "circular, second strided": (Layer(None, 6), Layer(None, 6, 2)),
    "circular, all six taps": (Layer(None, 6), Layer(None, 6)),
    "circular, first strided": (Layer(None, 6, 2), Layer(None, 3)),
    "circular, two taps, dilation 3": (Layer(None, 2, 1, 3), Layer(None, 2, 1, 3)),
    "circular, three taps, dilation 2": (Layer(None, 3, 1, 2), Layer(None, 3, 1, 2)),
    "patches of two, then one tap": (Layer(0, 2, 2), Layer(0, 1)),
    "unpadded, all six taps, then one": (Layer(0, 6), Layer(0, 1)),
    "one tap": (Layer(0, 1), Layer(0, 1)),
}


EVERY = tuple(NAMED.values())


class Kernels(NamedTuple):
    """Two kernels and the data that they see."""

    first: Tensor
    second: Tensor
    X: Tensor
    Y: Tensor
    readout: Tensor


def drawn(draw: torch.Generator, layout: Layout, channels: tuple[int, int, int]) -> Kernels:
    """Gaussian kernels of a layout, data, and a readout."""
    random = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)
    first, second = layout
    ends = positions_after(second, positions_after(first, POSITIONS)) * channels[2]
    K, V = random(channels[1], channels[0], first.taps), random(channels[2], channels[1], second.taps)
    return Kernels(K / 2, V / 2, random(10, channels[0], POSITIONS), random(10, 3), random(3, ends) / ends**0.5)


def loss_of(kernels: Kernels, layout: Layout) -> Callable:
    """The square loss of both convolutions, a tanh and the readout."""

    def loss(p: dict[str, Tensor]) -> Tensor:
        out = convolve(convolve(kernels.X, p["K"], layout[0]), p["V"], layout[1]).flatten(1)
        return square_loss(torch.tanh(out) @ kernels.readout.mT, kernels.Y)

    return loss


def operators(K: Tensor, V: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Both layers as matrices on feature maps."""
    T = operator_matrix(lambda H: convolve(H, K, layout[0]), (K.shape[1], POSITIONS))
    return T, operator_matrix(lambda H: convolve(H, V, layout[1]), (V.shape[1], len(T) // len(K)))


def of_channels(K: Tensor, V: Tensor, layout: Layout) -> Tensor:
    """Balance of the kernels, summed over taps."""
    return gramian_balance(K, V)


def of_operators(K: Tensor, V: Tensor, layout: Layout) -> Tensor:
    """Balance of the operators on feature maps."""
    return gramian_balance(*operators(K, V, layout))


@shared
def runs(case: Case, layouts: tuple[Layout, ...]) -> list[dict]:
    """Both balances along the gradient flow of some layouts, with weight decay."""
    found = []
    for layout in layouts:
        kernels = drawn(case.generator(f"flow {layout}"), layout, (2, 3, 2))
        field = gradient_flow(loss_of(kernels, layout), weight_decay=DECAY)
        both = {B.__name__: B for B in (of_channels, of_operators)}
        record = {name: lambda p, B=B, layout=layout: B(p["K"], p["V"], layout) for name, B in both.items()}
        found.append(integrate(field, {"K": kernels.first, "V": kernels.second}, TIMES, record=record))
    return found


@shared
def balances(case: Case, balance: Callable, met: bool = False) -> list[Tensor]:
    """One of the two along the flows of the named layouts; met: only of those that meet the criterion."""
    every = zip(EVERY, runs(case, EVERY), strict=True)
    return [run[balance.__name__] for layout, run in every if by_criterion(layout) or not met]


def shrunk(path: Tensor) -> Tensor:
    """The start of a path, times exp(-2 delta t)."""
    return torch.exp(-2 * DECAY * torch.tensor(TIMES, dtype=torch.float64))[:, None, None] * path[0]


def all_layouts() -> Iterator[Layout]:
    """Two layers on six positions, both circular or neither, in which every tap is used and something gets through."""
    grid = product((None, 0, 1), range(1, 7), (1, 2, 3), (1, 2, 3))
    layers = [Layer(*one) for one in grid if one[1] > 1 or one[3] == 1]
    fits = lambda layer, n: positions_after(layer, n) > 0 and bool(ties(layer, n).flatten(1).any(1).all())
    size = {n: [layer for layer in layers if fits(layer, n)] for n in range(1, POSITIONS + 7)}
    for first in size[POSITIONS]:
        written = ties(first, POSITIONS).sum(0).any(1)
        for second in size[positions_after(first, POSITIONS)]:
            read = ties(second, len(written)).sum(0).any(0)
            if (first.padding is None) == (second.padding is None) and (read & written).any():
                yield first, second


@shared
def searched(case: Case) -> list[Layout]:
    """Half of them layouts that meet the criterion, half that do not, drawn from all."""
    everything, draw = list(all_layouts()), case.generator("search")
    order = torch.randperm(len(everything), generator=draw).tolist()
    count, kinds = {"quick": 100, "paper": 1000}[case.profile], {True: [], False: []}
    for one in (everything[k] for k in order):
        if min(map(len, kinds.values())) >= count:
            break
        kinds[by_criterion(one)].append(one)
    return [*NAMED.values(), *kinds[True][:count], *kinds[False][:count]]


@shared
def departures(case: Case) -> list[float]:
    """How fast the operators' balance leaves the law in each layout, relative to the rates of the Gramians."""
    draw, found = case.generator("departures"), []
    for layout in searched(case):
        kernels = drawn(draw, layout, (1, 2, 1))
        params = {"K": kernels.first, "V": kernels.second}
        g = gradient(loss_of(kernels, layout))(params)
        T, S = operators(params["K"], params["V"], layout)
        dT, dS = operators(g["K"], g["V"], layout)
        found.append(departure(dT @ T.mT, S.mT @ dS))
    return found


def departure(left: Tensor, right: Tensor) -> float:
    """Size of a sum with its transpose, for the difference of two rates, relative to the two."""
    gap = (left + left.mT) - (right + right.mT)
    return (gap.norm() / (left.norm() + right.norm())).item()


@claim("A-conv-balance", printed={"balance": of_operators}, control={"rule": full_circles_and_single_taps})
def convolutions_balance(case, balance=of_channels, rule=by_criterion):
    """Channel Gramians of two convolutions follow exp(-2 delta t) in every layout; their operators in some, by a rule.

    The rule looks at which entries are tied and at nothing else. It is tried on layouts that meet it and on as many
    that do not; the rates of the actual flow decide.
    """
    return together(
        channels=equal(
            measured=lambda: balances(case, balance),
            predicted=lambda: [shrunk(path) for path in balances(case, balance)],
            bound=1e-11, reason="DOP853 with a relative tolerance of 1e-12 a step; eleven layouts",
        ),
        operators=equal(
            measured=lambda: balances(case, of_operators, True),
            predicted=lambda: [shrunk(path) for path in balances(case, of_operators, True)],
            bound=1e-11, reason="as above, in the layouts that meet the rule",
        ),
        if_and_only_if=equal(
            measured=lambda: [torch.tensor([gap < ZERO for gap in departures(case)]).double()],
            predicted=lambda: [torch.tensor([rule(layout) for layout in searched(case)]).double()],
            bound=1e-9, reason="yes or no, from rates that are rounding or at least a thousandth",
        ),
    )  # fmt: skip


# Circular convolutions with any set of taps


def subsets(n: int) -> list[tuple[int, ...]]:
    """Sets of taps that contain 0."""
    return [(0, *(k for k in range(1, n) if bits >> (k - 1) & 1)) for bits in range(2 ** (n - 1))]


def one_subgroup(D: tuple[int, ...], E: tuple[int, ...], n: int) -> bool:
    """Whether both sets, which contain 0, are the same subgroup."""
    return set(D) == set(E) and all((a - b) % n in D for a in D for b in D)


def as_many_taps(D: tuple[int, ...], E: tuple[int, ...], n: int) -> bool:
    return len(D) == len(E)


@shared
def set_departures(case: Case) -> list[float]:
    """The same for circular convolutions with every two sets of taps, on six positions."""
    draw, found = case.generator("sets"), []
    full = (Layer(None, POSITIONS), Layer(None, POSITIONS))
    for D, E in product(subsets(POSITIONS), repeat=2):
        kernels = drawn(draw, full, (1, 2, 1))
        masks = [torch.zeros(POSITIONS, dtype=torch.float64).index_fill(0, torch.tensor(S), 1.0) for S in (D, E)]
        params = {"K": kernels.first * masks[0], "V": kernels.second * masks[1]}
        g = gradient(loss_of(kernels, full))(params)
        T, S = operators(params["K"], params["V"], full)
        dT, dS = operators(g["K"] * masks[0], g["V"] * masks[1], full)
        found.append(departure(dT @ T.mT, S.mT @ dS))
    return found


@claim("O-circular-cosets", control={"rule": as_many_taps})
def one_subgroup_of_taps(case, rule=one_subgroup):
    """Operators of circular convolutions of stride one keep the law iff both tap sets are cosets of one subgroup."""
    sets = lambda: product(subsets(POSITIONS), repeat=2)
    return equal(
        measured=lambda: [torch.tensor([gap < ZERO for gap in set_departures(case)]).double()],
        predicted=lambda: [torch.tensor([rule(D, E, POSITIONS) for D, E in sets()]).double()],
        bound=1e-9, reason="yes or no, for all 1,024 pairs of sets that contain 0",
    )  # fmt: skip
