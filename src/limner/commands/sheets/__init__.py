"""Implementations of the commands that make sheets of pictures, one file for each command."""
