"""Questions with gold answers, one module per dataset; splits are made by a hash of the question."""
