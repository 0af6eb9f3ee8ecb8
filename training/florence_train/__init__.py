"""Training side of florence-edge: the torch model, checkpoints, data, trainer and evaluators."""
