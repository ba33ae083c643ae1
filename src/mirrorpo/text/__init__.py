"""Facts about completion texts: which token wrote what, where the answer is marked, Python source."""
