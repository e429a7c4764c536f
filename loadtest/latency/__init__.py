"""First-token times of a router's clients over endpoints that misbehave: scenarios, references, runs and reports."""
