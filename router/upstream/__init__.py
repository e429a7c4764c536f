"""Connections to endpoints: opened before they are needed, one request at a time, closed on every path."""
