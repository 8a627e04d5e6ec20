"""Classes and functions that several papers share, and that are not models."""
