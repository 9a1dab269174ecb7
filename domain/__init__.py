"""What a payment is: the pure core (`payment`, `values`, `events`, …), its life (`lifecycle`), and
the only shared input and output (`adapters`). Read `payment.py` first, then `lifecycle/` in the
order of a payment's life.
"""
