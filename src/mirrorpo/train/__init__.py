"""The training loop and its phases."""
