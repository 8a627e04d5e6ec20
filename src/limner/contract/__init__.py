"""The contract of a model, on which everything else in limner builds."""
