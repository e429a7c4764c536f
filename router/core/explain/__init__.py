"""Explanations of a choice, for people. Decides nothing."""
