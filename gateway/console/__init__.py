"""The console: pages for operators at /console, made by the server.

`composition.py` has the routes. `visits.py` checks each request: session, origin, form.
"""
