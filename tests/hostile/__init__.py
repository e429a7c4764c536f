"""Floods against a running router, and what they cost it: `scripts/hostile`. All of it is bounded, and on loopback.

attacks    what is sent, by clients and by an endpoint
figures    the router's memory, its longest turn, and the time of /healthz beside
"""
