"""Measures of a trained network: curvature, neural collapse, robustness."""
