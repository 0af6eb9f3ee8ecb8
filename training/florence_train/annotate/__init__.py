"""The data engine: a model labels images, filters take out what is doubtful, training goes on with the rest."""
