"""The provider, both directions: `client` asks, `messages` reads what comes back, `result_codes` says what it means.

Daraja's field names appear here and nowhere else in the service.
"""
