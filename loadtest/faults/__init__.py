"""What a client gets when endpoints fail: sixteen faults, a fake endpoint that has them, and the verdicts."""
