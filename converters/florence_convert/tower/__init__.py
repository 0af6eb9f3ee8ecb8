"""The vision tower's graph in the form that CPUs like best: the same operators, arranged anew."""
