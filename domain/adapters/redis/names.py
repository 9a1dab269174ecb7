"""The names of our keys. All of them, and all of arq's, hash to one slot: cluster mode with one
shard then works.

Redis hashes only what stands between braces in a name. arq lets us choose the queue's name and the
jobs' ids, which stand in all its other names but one: each transaction that ends a job also names
`arq:abort`, and that name is fixed. So our tag is that very name: `arq:abort` itself has no braces,
and hashes as a whole to the same slot.
"""

from __future__ import annotations

TAG = "{arq:abort}"  # `arq_queue.require_tested_arq` compares it with arq's name

PREFIX = f"mkwanja:{TAG}:"
