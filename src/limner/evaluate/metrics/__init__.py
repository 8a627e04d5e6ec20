"""Each metric: its mathematics, and what it needs to be measured."""
