"""Diffusion models: noise turned into a picture step by step."""
