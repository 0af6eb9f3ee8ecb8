"""Names of the three graphs, for those who need no torch to say them."""

VISION, ENCODER, DECODER = "vision", "encoder", "decoder"
