"""Judges: networks that look at pictures, so that generators can be measured."""
