"""Load tools: they know HTTP only and never import the router, so they can drive any gateway."""
