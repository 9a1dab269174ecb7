"""The provider, both directions. Each kind's page (`pages` lists them) has its request, its result
and its codes.

`client` calls, by way of `authorized` (the shared token) and `wire` (one request, fenced).
`answers` reads what Daraja says at once, `reports` and `messages` what comes by callback, `status`
Transaction Status; `result_codes` says what codes mean.

Daraja's field names appear here and nowhere else in the service.
"""
