"""Sixteen faults of endpoints: a fake endpoint that has them, clients that call it, and verdicts on the results."""
