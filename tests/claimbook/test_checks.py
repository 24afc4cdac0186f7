"""Measures of disagreement against numpy and by hand."""

import math

import numpy as np
import pytest
import torch

from claimbook.show.checks import largest, mildest, observed_order, relative_error, worst


def test_relative_error_is_the_worst_entry_in_units_of_the_largest_prediction():
    measured, predicted = torch.tensor([[1.0, -2.5], [0.0, 4.5]]), torch.tensor([[1.0, -2.0], [0.0, 5.0]])
    assert relative_error(measured, predicted) == pytest.approx(0.1)
    assert relative_error(predicted, predicted) == 0


def test_relative_error_does_not_change_with_the_units():
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, 7, generator=draw, dtype=torch.float64)
    expected = np.abs(a.numpy() - b.numpy()).max() / np.abs(b.numpy()).max()
    for scale in (1e-100, 1.0, 1e100):
        assert relative_error(scale * a, scale * b) == pytest.approx(expected, rel=1e-13)


def test_relative_error_is_absolute_where_the_prediction_is_zero():
    assert relative_error(torch.tensor([0.25]), torch.tensor([0.0])) == 0.25


def test_something_that_is_not_a_number_cannot_hide_in_a_maximum():
    nan, ones = torch.tensor([math.nan, 1.0]), torch.ones(2)
    for measure in (
        lambda: relative_error(nan, ones),
        lambda: relative_error(ones, nan),
        lambda: relative_error(ones / 0, ones / 0),
        lambda: largest(nan),
        lambda: observed_order([1.0, math.nan], [1.0, 2.0]),
        lambda: worst([1.0, math.nan]),
        lambda: mildest([1.0, math.nan]),
    ):
        with pytest.raises(ValueError, match="not a number"):
            max(0.0, measure())


def test_relative_error_does_not_broadcast():
    with pytest.raises(ValueError, match=r"measured has shape \(3,\), predicted \(3, 1\)"):
        relative_error(torch.ones(3), torch.ones(3, 1))


def test_largest_is_a_magnitude():
    assert largest(torch.tensor([1.0, -3.0])) == 3.0


def test_observed_order_is_the_slope_of_a_line_through_the_logarithms():
    rng = np.random.default_rng(0)
    steps = 2.0 ** -np.arange(6)
    errors = 3 * steps**2 * np.exp(0.1 * rng.standard_normal(6))
    expected = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert observed_order(errors.tolist(), steps.tolist()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_observed_order_of_differences_is_that_of_the_formula(order):
    steps = [0.2, 0.1, 0.05]
    f = math.sin
    formulas = {
        1: lambda h: (f(1 + h) - f(1)) / h,
        2: lambda h: (f(1 + h) - f(1 - h)) / (2 * h),
        4: lambda h: (8 * (f(1 + h) - f(1 - h)) - (f(1 + 2 * h) - f(1 - 2 * h))) / (12 * h),
    }
    errors = [abs(formulas[order](h) - math.cos(1)) for h in steps]
    assert abs(observed_order(errors, steps) - order) < 0.05


@pytest.mark.parametrize("errors, steps", [([1.0], [1.0]), ([1.0, 2.0], [1.0, 2.0, 3.0]), ([], [])])
def test_observed_order_needs_pairs(errors, steps):
    with pytest.raises(ValueError, match="two or more errors with their steps"):
        observed_order(errors, steps)


def test_worst_and_mildest_take_numbers_and_tensors():
    values = (3.0, torch.tensor(1.0), torch.tensor(2.0, dtype=torch.float64))
    assert (worst(iter(values)), mildest(iter(values))) == (3.0, 1.0)
