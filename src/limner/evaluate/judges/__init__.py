"""Judges: networks whose features and predictions are used to evaluate generators."""
