"""The parts of a drawn result: colours, text, where labels go, and paint. `florence_edge.draw` puts them together."""
