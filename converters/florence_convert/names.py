"""Names in a bundle's graphs, for those who need no torch to say them."""

VISION, ENCODER, DECODER = "vision", "encoder", "decoder"
"""The graphs themselves."""

EMBEDDING = "embedding.weight"
"""The weight that encoder and decoder look tokens up in, and that the output projection reads."""
