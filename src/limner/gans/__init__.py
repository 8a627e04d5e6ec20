"""Generative adversarial networks: a generator and its critic."""
