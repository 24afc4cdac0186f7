"""Oracles: the layers themselves under an explicit integrator, quadrature, mpmath's own incomplete gamma function."""

import math

import mpmath
import pytest
import torch
from scipy.integrate import quad

from normdyn.motion.flows import gradient_flow, integrate
from normdyn.norms import growth as nd


def rows(values):
    return torch.tensor(values, dtype=torch.float64)


def layers(norms, margin, times):
    """Norms of scalar layers under gradient flow of exp(-margin * product), in plain time."""
    field = gradient_flow(lambda p: torch.exp(-margin * p["rho"].prod()))
    return integrate(field, {"rho": rows(norms)}, [0.0, *times])["rho"][1:]


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_closed_form_is_the_flow_of_equal_layers(depth):
    margin, times = 1.3, [0.5, 5.0, 30.0]
    y = margin * layers([0.9] * depth, margin, times).prod(1)
    closed = nd.output(rows(times).log(), depth, margin=margin, start=margin * 0.9**depth)
    assert torch.allclose(y, closed, rtol=1e-10)
    logarithmic = nd.follow_output(rows(times).log1p(), depth, margin=margin, start=margin * 0.9**depth)
    assert torch.allclose(y, logarithmic, rtol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 3, 5, math.inf])
def test_closed_form_agrees_with_logarithmic_time(depth):
    t = rows([1e1, 1e4, 1e12])
    a, b = nd.output(t.log(), depth, margin=0.7), nd.follow_output(t.log1p(), depth, margin=0.7)
    assert torch.allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 3, 8, math.inf])
def test_antiderivative_is_one(depth):
    a = nd.rate_exponent(depth)
    exact, _ = quad(lambda u: math.exp(u) * u**-a, 0.5, 4.0, epsabs=1e-13)
    assert abs(float(nd.antiderivative(4.0, depth) - nd.antiderivative(0.5, depth)) - exact) < 1e-10


def test_antiderivative_is_an_incomplete_gamma_function():
    s = mpmath.mpf(2) / 3 - 1  # three layers: the real part, up to a phase
    phase = (-1) ** (-s)
    gamma = lambda y: (-mpmath.gammainc(s, -mpmath.mpf(y)) * phase).real
    gap = nd.antiderivative(5.0, 3) - nd.antiderivative(1.0, 3)
    assert abs(gamma(5) - gamma(1) - gap) < 1e-10 * abs(gap)


def test_unequal_layers():
    times = [0.5, 5.0, 30.0]
    norms = nd.follow_norms(rows(times).log1p(), [0.5, 1.5, 1.0], margin=1.3)
    assert torch.allclose(norms, layers([0.5, 1.5, 1.0], 1.3, times), rtol=1e-8)


@pytest.mark.parametrize("depth", [2, 4, 8])
def test_asymptotics(depth):
    s = rows([1e4, 1e6])
    gaps = (nd.follow_output(s, depth, margin=2.0) - nd.asymptotic_output(s, depth, margin=2.0)).abs()
    assert gaps[1] < gaps[0] / 50 and gaps[1] < 1e-4


@pytest.mark.parametrize("call, message", [
    (lambda: nd.rate_exponent(0.5), "depth must be a whole number"),
    (lambda: nd.output(rows([1.0]), 2, margin=-1.0), "margin must be positive"),
    (lambda: nd.output(rows([1.0]), 2, start=0.0), "start must be positive"),
    (lambda: nd.follow_output(rows([2.0, 1.0]), 2), "log_times must be positive and increase"),
    (lambda: nd.follow_norms(rows([1.0]), [1.0, 0.0]), "norms must be positive"),
])  # fmt: skip
def test_bad_input_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()
