"""The parts of the training loop, each with one responsibility; `florence_train.trainer` puts them together."""
