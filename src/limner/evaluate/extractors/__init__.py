"""What features are computed with."""
