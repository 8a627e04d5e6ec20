"""Pipelines of the library diffusers as models of limner, and the way back."""
