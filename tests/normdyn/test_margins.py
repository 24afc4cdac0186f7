"""Oracles: explicit steps in plain time, autograd through the parametrisations, closed forms, sklearn's classifier."""

import pytest
import torch
from sklearn.svm import SVC

from normdyn.data.sets import iris
from normdyn.motion.flows import descend, gradient_flow, integrate
from normdyn.norms import margins as nd
from normdyn.symmetry.polar import hard_margin


def rows(values):
    return torch.tensor(values, dtype=torch.float64)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PAIR = rows([[1.0, 1.0], [1.0, -0.5]])
METRIC = rows([[2.0, 0.3], [0.3, 0.7]])
LATE = rows([10.0, 100.0, 690.0])


def support(points):
    unit, dual = hard_margin(points)
    margin = (points @ unit).min()
    return unit / margin, dual / margin**2


def parametrised(system, points, w, size):
    """Velocity of the seen vector, by autograd through its parameters."""
    loss = lambda w: torch.exp(-points @ w).sum()
    if system == "gradient":
        return -torch.func.grad(loss)(w)
    M = METRIC if system == "batch normalization" else torch.eye(2, dtype=w.dtype)
    seen = lambda g, v: g * v / (v @ M @ v).sqrt()
    g, v = (w @ M @ w).sqrt(), size * w / w.norm()
    slopes = torch.func.grad(lambda g, v: loss(seen(g, v)), (0, 1))(g, v)
    return torch.func.jvp(seen, (g, v), tuple(-s for s in slopes))[1]


@pytest.mark.parametrize("system", nd.SYSTEMS)
@pytest.mark.parametrize("size", [1.0, 1.7])
def test_velocity_is_that_of_the_parametrisation(system, size):
    w = draw(0, 2)
    drive = torch.exp(-PAIR @ w) @ PAIR
    metric = METRIC if system == "batch normalization" else None
    got = nd.predictor_velocity(w, drive, system, metric=metric, size=size)
    assert torch.allclose(got, parametrised(system, PAIR, w, size), atol=1e-13)


@pytest.mark.parametrize("system", nd.SYSTEMS)
def test_follow_agrees_with_an_explicit_integrator_in_plain_time(system):
    metric, start = METRIC if system == "batch normalization" else None, rows([1.0, 0.3])
    field = lambda p: {"w": nd.predictor_velocity(p["w"], torch.exp(-PAIR @ p["w"]) @ PAIR, system, metric=metric)}
    slow = integrate(field, {"w": start}, [0.0, 1.0, 20.0])["w"][1:]
    times = rows([1.0, 20.0]).log1p()
    for frame in (None, support(PAIR)[0]):
        fast = nd.follow(PAIR, start, times, system=system, metric=metric, frame=frame, relative=1e-10)
        assert torch.allclose(fast["vector"], slow, atol=1e-7)


def test_follow_agrees_with_small_steps_of_descent():
    start, field = rows([1.0, 0.3]), gradient_flow(lambda p: torch.exp(-PAIR @ p["w"]).sum())
    stepped = descend(field, {"w": start}, step=1e-3, steps=2000, every=2000)["w"][-1]
    assert torch.allclose(nd.follow(PAIR, start, rows([3.0]).log())["vector"][0], stepped, atol=1e-3)


def test_the_frame_does_not_matter():
    ends = [
        nd.follow(PAIR, rows([1.0, 0.3]), [30.0], frame=f, relative=1e-10)["vector"] for f in (None, rows([1.0, 0.2]))
    ]
    assert torch.allclose(*ends, atol=1e-6)


def test_one_point_is_the_flow():
    x, start, s = rows([1.2, 0.5]), rows([0.4, -0.9]), rows([3.0, 10.0, 300.0])
    path = nd.follow(x[None], start, s, frame=x / x.square().sum(), relative=1e-10)
    angle = nd.direction_error(path, x / x.square().sum())
    log_t = torch.where(s < 30, s.expm1().log(), s)
    assert torch.allclose(angle.tan().log(), nd.one_point(x, start, log_t), atol=1e-9)


@pytest.mark.parametrize("size", [1.0, 1.5])
def test_one_point_normalized_is_the_flow(size):
    x, start, s = rows([1.2, 0.5]), rows([1.0, -0.4]), rows([0.5, 2.0, 4.0])
    path = nd.follow(x[None], start, s, system="weight normalization", size=size, relative=1e-11)
    cosine = path["vector"] @ x / x.norm() / path["vector"].norm(dim=1)
    exact = nd.one_point_normalized(x, start, s, size=size)
    assert torch.allclose(path["vector"].norm(dim=1), exact["length"], atol=1e-8)
    assert torch.allclose((1 - cosine**2).sqrt(), exact["log_sine"].exp(), atol=1e-8)


@pytest.mark.parametrize("system", ["gradient", "weight normalization"])
def test_symmetric_pair_is_the_flow(system):
    points, s = rows([[1.0, 0.6], [1.0, -0.6]]), rows([0.5, 1.0, 2.0])
    path = nd.follow(points, rows([1.0, 0.4]), s, system=system, relative=1e-11)
    exact = nd.symmetric_pair(0.6, (1.0, 0.4), s, system=system)
    assert torch.allclose(path["vector"][:, 0], exact["along"], atol=1e-8)
    assert torch.allclose(path["vector"][:, 1] / path["vector"][:, 0], exact["log_tangent"].exp(), atol=1e-8)


def test_symmetric_pair_conserves_its_invariant():
    path = nd.symmetric_pair(0.6, (1.0, 0.4), rows([1.0, 2.0, 5.0, 10.0]))
    bq = 0.6 * path["along"] * path["log_tangent"].exp()
    kept = bq.sinh().log() + 0.36 * path["along"]
    assert torch.allclose(kept, kept[:1].expand(4), atol=1e-9)


@pytest.mark.parametrize("system", ["gradient", "weight normalization"])
def test_unequal_dual_weights_give_one_constant(system):
    vector, dual = support(PAIR)
    r = nd.limit_residual(PAIR, dual)
    constant = (r - vector * (r @ vector) / (vector @ vector)).norm() / vector.norm()
    path = nd.follow(PAIR, rows([1.0, 0.3]), LATE, system=system, frame=vector)
    assert abs(nd.direction_error(path, vector)[-1] * 690 / constant - 1) < 5e-3


def test_decay_exponents_of_a_symmetric_pair():
    points = rows([[1.0, 0.6], [1.0, -0.6]])
    assert torch.allclose(nd.decay_exponents(points, *support(points)), rows([0.36]))


def test_iris_turns_to_sklearns_support_vector():
    data = iris()
    y = 1 - 2.0 * (data.labels > 0).double()
    points = data.inputs * y[:, None]
    mirrored = torch.cat([points, -points])  # symmetric data have no bias
    svc = SVC(kernel="linear", C=1e6, tol=1e-8).fit(mirrored, [1] * 150 + [-1] * 150)
    vector = rows(svc.coef_[0].tolist())
    path = nd.follow(points, rows([0.1] * 4), LATE, frame=support(points)[0])
    end = path["vector"][-1]
    assert torch.acos(end @ vector / end.norm() / vector.norm()) < 4e-3
    best = nd.normalized_margin(points, vector)
    assert nd.normalized_margin(points, end) > 0.99 * best


@pytest.mark.parametrize("call, message", [
    (lambda: nd.follow(PAIR, rows([1.0, 0.3]), [1.0], system="adam"), "system='adam' is unknown"),
    (lambda: nd.follow(PAIR, rows([1.0, 0.3]), [1.0], system="batch normalization"), "metric is for batch"),
    (lambda: nd.follow(PAIR, rows([1.0, 0.3]), [0.0, 1.0]), "log_times must be positive"),
    (lambda: nd.follow(PAIR, rows([1.0, 0.3]), [2.0, 1.0]), "log_times must be positive"),
    (lambda: nd.follow(PAIR, rows([1.0]), [1.0]), "start has shape"),
    (lambda: nd.predictor_velocity(PAIR[0], PAIR[1], "gradient", size=0.0), "size must be positive"),
    (lambda: nd.one_point(PAIR[0], rows([-9.0, 0.0]), rows([-10.0])), "not separated"),
    (lambda: nd.one_point_normalized(PAIR[0], rows([-1.0, 0.0]), rows([1.0])), "start has margin"),
    (lambda: nd.symmetric_pair(-1.0, (1.0, 1.0), rows([1.0])), "slope and both entries"),
    (lambda: nd.symmetric_pair(1.0, (1.0, 1.0), rows([1.0]), system="batch normalization"), "metric is for batch"),
])  # fmt: skip
def test_bad_input_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()
