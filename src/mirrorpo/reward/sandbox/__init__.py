"""Model-written programs, kept in."""
