"""What a model is: the contract that everything else in limner is written against."""
