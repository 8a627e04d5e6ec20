"""Autoencoders: a code for every image, and images from codes."""
