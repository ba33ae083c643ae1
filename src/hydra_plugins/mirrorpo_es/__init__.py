"""A Hydra sweeper that meta-learns a mirror map."""
