"""Search over hyperparameters, where every trial is an ordinary run of any backend."""
