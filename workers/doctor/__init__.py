"""Checks whether the service can work here: its settings, and every server that it needs.

`python -m workers doctor` runs the checks. None of them changes a payment, sends a payment or
prints a secret. The check of Daraja's credentials fetches an access token, and shares it with the
workers.
"""
