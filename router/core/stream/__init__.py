"""Bytes of answers: reads them, and joins a second stream to a first. Knows no endpoint."""
