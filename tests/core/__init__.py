"""The pure side, tested without an event loop, a clock or a patch: time and chance are arguments."""
