"""What decides section 2 of paper C: statements about other work that can be tested.

Deep networks at initialisation, symmetries of a layer, spectra and noisy statistics are in
:mod:`companion.normalization_geometry.related_work_runs`.
"""

from functools import partial
from math import log

import torch
from torch import Tensor

from claimbook.evidence import at_most, claim, equal, tendency, together
from companion.normalization_geometry import related_work_runs as runs
from companion.normalization_geometry.related_work_runs import INPUTS, UNITS, identity
from normdyn.networks.normalizers import batch_norm, group_norm, instance_norm, layer_norm

BATCHES = (8, 16, 32, 128)

# Deep networks at initialisation


def own_law(B: int) -> float:
    """The factor of linear layers."""
    return runs.linear_factor(B)


def as_relu(B: int) -> float:
    """An explosion of linear layers at the rate of ReLU layers."""
    return runs.relu_factor(B)


@claim("C-mean-field-depth", printed={"linear": as_relu}, control={"kind": "plain"})
def gradients_grow_with_curvature(case, linear=own_law, kind="normalised"):
    """Below batch normalisation squared gradients grow by a factor a layer that nonlinearity and batch size set.

    ReLU and linear layers for four batch sizes, tanh and sine for one; logarithms, in units of that of ReLU layers.
    Printed: linear layers explode. Control: He's scale without normalisation.  C 2.3
    """
    curved = (torch.tanh, torch.sin)
    return equal(
        measured=lambda: [
            *(runs.rate(runs.squared_gradients(case, 24, B, torch.relu, kind)) for B in BATCHES),
            *(runs.rate(runs.squared_gradients(case, 24, B, identity, kind)) for B in BATCHES),
            *(runs.rate(runs.squared_gradients(case, 40, 64, f, kind), 10) for f in curved),
        ],
        predicted=lambda: [
            *(log(runs.relu_factor(B)) for B in BATCHES), *(log(linear(B)) for B in BATCHES),
            *(log(runs.sampled_factor(case, f, 64)) for f in curved),
        ],
        scale=lambda: [log(runs.relu_factor(B)) for B in (*BATCHES, *BATCHES, 64, 64)],
        bound=0.08, margin=8.0, reason="width 128 and 16 draws; a rate that is missing misses by one: margin of eight",
    )  # fmt: skip


@claim("C-deep-gradient-stability", control={"kind": "skips"})
def rate_is_fixed_and_not_removed(case, kind="normalised"):
    """With batch normalisation gradients do not explode exponentially with depth.  C 5.1, 9.5, 10

    From layer 64 down to 32 of ReLU networks the squared gradient grows by less than eight, as powers up to the third
    would. Control: the same layers with skips.
    """
    squares = lambda: runs.squared_gradients(case, 64, 32, torch.relu, kind, 256, 3)
    return at_most(
        left=lambda: [squares()[32] / squares()[64]], right=lambda: [8.0],
        bound=0.1, reason="three draws of width 256",
    )  # fmt: skip


# Group and instance normalisation

FOUR = partial(group_norm, groups=4)
NORMALISED = {"layer": layer_norm, "two": partial(group_norm, groups=2), "four": FOUR, "batch": batch_norm}
SCALES = {"layer": 1.0, "two": 2.0, "four": 4.0, "batch": float(UNITS)}


def groups_alone(Z: Tensor) -> Tensor:
    """Each sample by itself."""
    return torch.cat([FOUR(z[None]) for z in Z])


def together_with_others(Z: Tensor) -> Tensor:
    return batch_norm(Z)


@claim("C-gn-invariance", printed={"of": "all"}, control=[{"other": together_with_others}, {"joint": True}])
def group_scales_lie_between(case, of="scales", other=groups_alone, joint=False):
    """Group normalisation uses one sample at a time, and its free scales number between those of LN and of BN.  C 2.2

    Twelve units, five inputs. Printed: all its invariances do. Controls: batch normalisation sees other samples; one
    scale a layer.
    """
    lost = lambda name: runs.lost(case, NORMALISED[name], of)
    shifts = {"layer": INPUTS + 1, "two": 2 * (INPUTS + 1), "four": 4 * (INPUTS + 1), "batch": UNITS}
    known = lambda name: (1.0 if joint else SCALES[name]) + (shifts[name] if of == "all" else 0)
    return together(
        counts=equal(
            measured=lambda: [lost(name) for name in NORMALISED],
            predicted=lambda: [known(name) for name in NORMALISED],
            bound=1e-9, reason="whole numbers",
        ),
        nested=at_most(
            left=lambda: [lost("layer"), lost("two"), lost("four")],
            right=lambda: [lost("two"), lost("four"), lost("batch")],
            bound=1e-9, reason="whole numbers",
        ),
        samples=equal(
            measured=lambda: FOUR(runs.signals(case)), predicted=lambda: other(runs.signals(case)),
            bound=1e-13, reason="rounding; nine samples",
        ),
    )  # fmt: skip


def each_channel(maps: Tensor) -> Tensor:
    """Layer normalisation of one channel after the other."""
    return torch.stack([layer_norm(channel.flatten(1)).reshape(4, 7, 7) for channel in maps.unbind(1)], 1)


@claim("C-instance-norm", control={"layers": layer_norm})
def instance_is_layer_of_a_channel(case, layers=each_channel):
    """Instance normalisation is layer normalisation of each channel of a feature map by itself.  C 2.2

    Control: one mean over all channels.
    """
    return equal(
        measured=lambda: instance_norm(runs.maps(case)), predicted=lambda: layers(runs.maps(case)),
        bound=1e-13, reason="rounding; four samples of eight channels",
    )  # fmt: skip


# Weight normalisation and conditioning

LENGTHS = (0.03, 0.3, 1.0, 3.0, 30.0)


def condition(values: Tensor) -> Tensor:
    return values[-1] / values[0]


@claim("C-wn-conditioning", printed={"c": 30.0}, control={"squeezed": False})
def length_of_v_sets_the_conditioning(case, c=None, squeezed=True):
    """With w = g v/|v| the spectrum at a minimum is that of D A D, D = c S + u u' and c = g/|v|.  C 2.2, 6

    It is better conditioned than A at the c that balances the curvatures along and across w, in two dimensions.
    Printed: it is better for any |v|. Control: the spectrum of A.
    """

    def law(one: runs.Problem, c: float) -> Tensor:
        u = one.w / one.w.norm()
        D = c * torch.eye(len(u), dtype=u.dtype) + (1 - c) * torch.outer(u, u)
        return torch.linalg.eigvalsh(D @ one.A @ D if squeezed else one.A)

    return together(
        spectrum=equal(
            measured=lambda: [one for c in LENGTHS for one in runs.spectra(case, c)],
            predicted=lambda: [law(one, c) for c in LENGTHS for one in runs.problems(case)],
            bound=1e-9, reason="rounding of automatic differentiation; 6 quadratics, five lengths",
        ),
        better=at_most(
            left=lambda: [values[-1] / values[0] for values in runs.spectra(case, c)],
            right=lambda: [condition(torch.linalg.eigvalsh(one.A)) for one in runs.problems(case)[: 6 if c else 4]],
            bound=1e-9, reason="rounding; four quadratics in two dimensions at the best length",
        ),
    )  # fmt: skip


# Noisy statistics


@claim("C-bn-noise-margin", control={"parts": (40,)}, untrained={"steps": 1}, longer={"steps": 3000})
def mild_noise_enlarges_the_least_margin(case, parts=(20, 10), steps=runs.STEPS):
    """Noise of the batch statistics enlarges the least distance of a sample to the decision boundary.  C 2.4, 6.1, 7.2

    All samples a step, normalised in random parts of 20 or 10 of 40; networks that fit; at equal steps and at equal
    loss with full statistics. Control: one part, hence no noise.
    """
    return tendency(
        effect=lambda: [runs.gains(case, part, stop, "least", steps)
                        for part in parts for stop in ("steps", "loss")],
        reason="two part sizes, two stops; 40 paired draws of data and start, those in which both networks fit",
    )  # fmt: skip
