"""Layers that more than one paper needs, and that are no paper's headline."""
