"""The choice of endpoints for a call: routes, costs, hedges, budgets and the race. Knows no connection."""
