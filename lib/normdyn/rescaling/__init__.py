"""Rescaling symmetry: the group, its normal forms and the ways to them, flows and descent that keep balance."""
