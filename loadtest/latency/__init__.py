"""First-token times as a client sees them, over a fleet that misbehaves: who plays it, what could be had, what was."""
