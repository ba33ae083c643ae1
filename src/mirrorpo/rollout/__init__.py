"""Sampling completions, and putting them into tensors."""
