"""The cost of a gateway per request: the bench, and in C its fake endpoint and its load generator."""
