"""Metrics: one file for each, with its mathematics and its inputs."""
