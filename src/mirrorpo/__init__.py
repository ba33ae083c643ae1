"""Mirror policy optimisation: which divergence, and which tokens deserve credit."""
