"""What Redis is used for: wake-ups, the bell, fast replays, the shared token and the shared limit.

All of it may be lost at any moment: Postgres has the truth, and the sweeper brings back what was
forgotten.
"""
