"""The description of the interface: GET /openapi.json, from which the reference page is made."""
