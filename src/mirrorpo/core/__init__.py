"""Floor 0: the types, masked reductions and seeds that every room shares. Imports no room."""
