"""Judging: what the pictures of any generator are worth, in numbers that say what they are."""
