"""The adapter of Daraja: requests to it, and its answers and callbacks.

`client` sends through `authorized` (the shared token) and `wire` (one request, with the fence).
`answers` classifies synchronous answers. `reports` and `messages` read callbacks. `status` has
Transaction Status. `result_codes` has the codes that finalize. `pages` lists the module of each
kind, which has its request, its result and its codes.

Daraja's field names appear here and nowhere else in the service.
"""
