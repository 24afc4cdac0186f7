"""Oracles: autograd through the plain formulas, sklearn's support vector machine, eigendecompositions."""

import pytest
import torch
from sklearn.svm import SVC

from normdyn.motion.flows import gradient_flow, integrate
from normdyn.symmetry import polar as nd


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def toy_loss(X):
    return lambda w: (-torch.tanh(X @ w)).exp().sum()


def test_weight_normalization_is_minus_autograd():
    X, g, v = draw(0, 5, 4), draw(1, 1)[0].abs(), draw(2, 4)
    loss = toy_loss(X)
    dg, dv = torch.func.grad(lambda p: loss(p[0] * p[1] / p[1].norm()))((g, v))
    drive = -torch.func.grad(loss)(g * v / v.norm())
    got = nd.weight_normalization_velocity(g, v, drive)
    assert torch.allclose(got[0], -dg, atol=1e-14) and torch.allclose(got[1], -dv, atol=1e-14)
    move = torch.func.jvp(lambda g, v: g * v / v.norm(), (g, v), got)[1]
    assert torch.allclose(nd.seen_velocity(g, v, drive), move, atol=1e-14)


def test_polar_velocity_is_the_derivative_of_norm_and_direction():
    W, h = draw(0, 3, 2), draw(1, 3, 2)
    got = nd.polar_velocity(W.norm(), W / W.norm(), h)
    wanted = torch.func.jvp(lambda W: (W.norm(), W / W.norm()), (W,), (h,))[1]
    assert all(torch.allclose(a, b, atol=1e-14) for a, b in zip(got, wanted, strict=True))


def test_sphere_is_weight_normalization_of_unit_size():
    V, h, rho = draw(0, 4), draw(1, 4), draw(2, 1)[0].abs()
    V = V / V.norm()
    for a, b in zip(nd.sphere_velocity(rho, V, h), nd.weight_normalization_velocity(rho, V, h), strict=True):
        assert torch.allclose(a, b, atol=1e-14)
    assert abs(V @ nd.sphere_velocity(rho, V, h)[1]) < 1e-14


def test_polar_system_follows_the_weights():
    X = draw(3, 6, 3)
    drive = gradient_flow(lambda p: (-(torch.tanh(X @ p["A"].mT) @ p["B"])).exp().sum())
    start, times = {"A": draw(4, 2, 3), "B": draw(5, 2)}, [0.0, 0.5, 1.0]
    plain = integrate(drive, start, times)
    polar = integrate(nd.reparametrized(drive, "polar"), nd.to_polar(start), times)
    again = nd.from_polar({name: path[-1] for name, path in polar.items() if name != "times"})
    assert all(torch.allclose(again[n], plain[n][-1], atol=1e-10) for n in start)


def test_round_trip_for_any_size():
    start = {"A": draw(4, 2, 3), "B": draw(5, 2)}
    again = nd.from_polar(nd.to_polar(start, size=3.0))
    assert all(torch.allclose(again[n], start[n]) for n in start)
    assert abs(nd.to_polar(start, size=3.0)["A.direction"].norm() - 3) < 1e-14


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_jacobian_is_autograd(center, epsilon):
    X = draw(6, 5, 3)
    full = torch.func.jacrev(lambda X: nd.standardize_columns(X, epsilon=epsilon, center=center))(X)  # n d m e
    blocks = nd.standardize_jacobian(X, epsilon=epsilon, center=center)
    wanted = torch.einsum("dnm,de->ndme", blocks, torch.eye(3, dtype=X.dtype))
    assert torch.allclose(full, wanted, atol=1e-13)


def test_standardize_is_torch_batch_norm():
    X = draw(7, 8, 3)
    wanted = torch.nn.functional.batch_norm(X, None, None, training=True, eps=0.1)
    assert torch.allclose(nd.standardize_columns(X, epsilon=0.1), wanted, atol=1e-13)


def test_batch_normalization_is_minus_autograd_through_the_batch():
    X, gain, w = draw(8, 9, 3), draw(9, 1)[0].abs(), draw(10, 3)
    loss = lambda output: (-torch.tanh(output)).exp().sum()
    wanted = torch.func.grad(lambda g, w: loss(g * nd.standardize_columns((X @ w)[:, None])[:, 0]), (0, 1))(gain, w)
    centred = X - X.mean(0)
    C = centred.mT @ centred / 9
    drive = -torch.func.grad(lambda a: loss(centred @ a))(gain * w / (w @ C @ w).sqrt())
    for a, b in zip(nd.batch_normalization_velocity(gain, w, drive, C), wanted, strict=True):
        assert torch.allclose(a, -b, atol=1e-13)


@pytest.mark.parametrize("seed", range(4))
def test_hard_margin_is_sklearns(seed):
    points = draw(seed, 20, 3)
    labels = torch.sign(points @ draw(90 + seed, 3))
    points = points * labels[:, None]
    both = torch.cat([points, -points]).numpy()
    svm = SVC(kernel="linear", C=1e8, tol=1e-8).fit(both, [1] * 20 + [-1] * 20)
    w, dual = nd.hard_margin(points)
    wanted = torch.tensor(svm.coef_[0])
    assert torch.allclose(w, wanted / wanted.norm(), atol=1e-4)
    assert dual.sum() == pytest.approx(1) and (dual >= 0).all()
    assert torch.allclose(points.mT @ dual, w * (points @ w).min(), atol=1e-10)


def test_hard_margin_in_a_metric_is_that_of_transformed_points():
    points = draw(3, 9, 3).abs()
    A = draw(4, 3, 3)
    M = A.mT @ A
    w, _ = nd.hard_margin(points, M)
    u, _ = nd.hard_margin(points @ torch.linalg.inv(A))
    assert torch.allclose(A @ w, u, atol=1e-9) and abs(w @ M @ w - 1) < 1e-12


def test_whitening_is_the_inverse_root():
    A = draw(5, 4, 6)
    C = A @ A.mT
    values, vectors = torch.linalg.eigh(C)
    assert torch.allclose(nd.whitening(C), vectors / values.sqrt() @ vectors.mT, atol=1e-9)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: nd.to_polar({"A": torch.zeros(2)}), "no direction"),
        (lambda: nd.to_polar({"A": torch.ones(2)}, size=0.0), "size must be positive"),
        (lambda: nd.reparametrized(lambda p: p, "cartesian"), "choose among"),
        (lambda: nd.standardize_columns(torch.ones(3, 2)), "no spread"),
        (lambda: nd.hard_margin(torch.tensor([[1.0], [-1.0]]).double()), "no direction"),
        (lambda: nd.hard_margin(torch.eye(2).double(), torch.zeros(2, 2).double()), "positive definite"),
        (lambda: nd.whitening(torch.tensor([[1.0, 2.0], [2.0, 1.0]]).double()), "positive definite"),
        (lambda: nd.whitening(torch.diag(torch.tensor([1.0, 1e-12])).double(), iterations=3), "iterations"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
