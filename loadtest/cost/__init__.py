"""What a gateway costs per request: the bench, its fake endpoint and its load generator, both in C."""
