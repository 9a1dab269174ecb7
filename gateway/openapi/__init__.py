"""`/openapi.json` and `/asyncapi.json`, made from the code that serves and publishes."""
