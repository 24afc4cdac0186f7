"""Growth of layer norms: closed forms against quadrature, the flow, and explicit steps."""

import math

import mpmath
import pytest
import torch
from scipy.integrate import quad

from normdyn.checks import observed_order, relative_error
from normdyn.flows import integrate
from normdyn.growth import (
    antiderivative,
    asymptotic_output,
    grown_output,
    growth_time,
    layer_norms,
    norm_flow,
    norm_start,
    rate_constant,
)


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 7, math.inf])
def test_antiderivative_against_quadrature(layers):
    p = 2 - 2 / layers
    expected = quad(lambda z: math.exp(z) * z**-p, 0.7, 9, epsabs=1e-10, epsrel=1e-13)[0]
    measured = float(antiderivative(9, layers) - antiderivative(0.7, layers))
    assert abs(measured / expected - 1) < 1e-12


def test_antiderivative_for_infinitely_many_layers_is_the_papers():
    R = mpmath.mpf(40)
    assert abs(antiderivative(mpmath.log(R), math.inf) - (mpmath.li(R) - R / mpmath.log(R))) < 1e-12


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
@pytest.mark.parametrize("margin", [0.3, 1.0, 4.0])
def test_closed_form_is_the_flow(layers, margin):
    start, s = (0.6 / margin) ** (1 / layers), torch.tensor([0.0, 2.0, 10.0, 28.0])
    path = integrate(norm_flow(margin), norm_start([start] * layers), s, record={"norms": lambda p: p["norms"]})
    y = margin * path["norms"][1:].prod(1)
    log_times = torch.tensor([math.log(math.expm1(v)) for v in s[1:].tolist()], dtype=torch.float64)
    assert relative_error(grown_output(log_times, layers=layers, margin=margin, start=0.6), y) < 1e-10


def test_inverse_of_growth_time():
    outputs = [0.9, 3.0, 50.0, 2000.0]
    times = growth_time(outputs, layers=3, margin=0.8, start=0.5)
    back = grown_output(times, layers=3, margin=0.8, start=0.5)
    assert relative_error(back, torch.tensor(outputs, dtype=torch.float64)) < 1e-12


def test_explicit_steps_converge_at_first_order():
    def descent(step):
        a, b = 1.0, 1.0
        for _ in range(round(4 / step)):
            pull = math.exp(-a * b)
            a, b = a + step * b * pull, b + step * a * pull
        return a * b

    exact = grown_output([math.log(4)], layers=2, margin=1.0, start=1.0).item()
    steps = [0.02, 0.01, 0.005]
    assert abs(observed_order([abs(descent(h) - exact) for h in steps], steps) - 1) < 0.05


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_asymptotics(layers):
    s = torch.tensor([1e4, 1e6], dtype=torch.float64)
    y = grown_output(s, layers=layers, margin=2.0, start=1.0)
    gaps = (y - asymptotic_output(s, layers=layers, margin=2.0)).abs()
    assert gaps[0] < 5e-3 and gaps[1] < 1e-4


def test_unequal_layers_forget_their_differences_in_the_product():
    s = torch.tensor([0.0, 2000.0])
    record = {"norms": lambda p: p["norms"]}
    path = integrate(norm_flow(1.0), norm_start([0.2, 3.0]), s, record=record, method="Radau", relative=1e-9)
    a, b = path["norms"][-1].tolist()
    assert abs(b**2 - a**2 - (9 - 0.04)) < 1e-8
    assert abs(a * b - asymptotic_output(s[1:].double(), layers=2, margin=1.0).item()) < 2e-2


def test_layer_norms():
    y = torch.tensor([8.0])
    assert layer_norms(y, layers=3, margin=1.0).item() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rate_constant(math.inf, 1.0), "alpha has no limit"),
        (lambda: rate_constant(0, 1.0), "layers must be one or more"),
        (lambda: rate_constant(2, -1.0), "margin must be positive"),
        (lambda: antiderivative(0.0, 2), "not separated"),
        (lambda: norm_start([1.0, 0.0]), "stays there"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
