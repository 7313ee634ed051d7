"""`emmdit bench serve`: load for a running service, and what came of it. Needs no torch."""
