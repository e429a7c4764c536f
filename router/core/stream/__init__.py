"""Reads the bytes of answers, and joins a second stream to a first. Knows no endpoint."""
