"""Values and functions that several papers share, none of them a model."""
