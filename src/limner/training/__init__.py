"""The training loop, and runs from a recipe to the last saved state."""
