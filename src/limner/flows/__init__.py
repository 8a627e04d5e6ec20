"""Flows: an invertible or continuous map between noise and images."""
