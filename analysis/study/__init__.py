"""What is compared: the design found in an export, the guards on it, and its scores and verdicts."""
