"""What a machine has and lacks for florence-edge; `florence-edge doctor` prints it."""
