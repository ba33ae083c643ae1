"""Token weights: which tokens of a completion deserve its credit."""
