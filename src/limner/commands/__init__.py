"""The commands of `limner`, one file for each verb."""
