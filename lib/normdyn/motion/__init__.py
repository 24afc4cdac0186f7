"""Motion of parameters: gradient flow and descent, sliding along kinks, constraints, regression in closed form."""
