"""Payments: the pure core (`payment`, `values`, `events`, …), `lifecycle` and `adapters`.

`adapters` has the only input and output that the processes share. Read `payment.py` first, then
`lifecycle/` in the order of a payment's life.
"""
