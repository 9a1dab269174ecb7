"""`/openapi.json`: the document, made from the routes, the bodies' models and the table of
problems that serve.
"""
