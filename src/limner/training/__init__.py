"""The loop, and a run from its recipe to its last state."""
