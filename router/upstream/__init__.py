"""Connections to endpoints: opened ahead of need, one request at a time each, and closed on every path."""
