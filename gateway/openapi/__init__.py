"""`/openapi.json`, made from the routes, the models of bodies and the table of problems."""
