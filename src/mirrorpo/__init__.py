"""Mirror policy optimisation: which divergence, and which tokens deserve credit."""

__version__ = "0.2.0"
