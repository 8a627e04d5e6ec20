"""Autoregressive models: p(x) as a product of conditionals, one pixel at a time."""
