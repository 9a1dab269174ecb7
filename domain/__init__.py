"""Payments: the pure core (`payment`, `values`, `events`, …), `lifecycle` and `adapters`.

`adapters` has all code for input and output that the processes share. Read `payment.py` first, then
`lifecycle/` in the order of a payment's life.
"""
