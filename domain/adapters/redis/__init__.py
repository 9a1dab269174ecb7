"""All uses of Redis: wake-ups, events, copies of answers, the access token and shared limits.

Redis may lose all its data at any moment. Postgres has the truth, and the sweeper finds every
payment whose wake-up was lost.
"""
