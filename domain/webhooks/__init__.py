"""Webhooks: the pure rules of messages that we send to the endpoints of backends.

`endpoint.py` has the endpoints, deliveries and attempts, `retries.py` what follows from an attempt,
`signing.py` the signature (Standard Webhooks), `urls.py` the URLs that a backend may send, and
`addresses.py` the addresses that we may call.
"""
