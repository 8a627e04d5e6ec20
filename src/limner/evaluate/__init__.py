"""Evaluation: metrics of the pictures of any generator, with reports and comparisons."""
