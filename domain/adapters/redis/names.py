"""The names of our keys. All of them, and all of arq's, hash to one slot: cluster mode with one shard then works.

Redis hashes only what stands between braces in a name. arq lets us choose the queue's name and the jobs' ids, which stand in
all its other names but one: each transaction that ends a job also names `arq:abort`, and that name is fixed. So our tag is
that very name: `arq:abort` itself has no braces, and hashes as a whole to the same slot.
"""

from __future__ import annotations

from uuid import uuid4

from arq.constants import abort_jobs_ss, default_queue_name

TAG = f"{{{abort_jobs_ss}}}"

PREFIX = f"mkwanja:{TAG}:"
QUEUE = f"{default_queue_name}:{TAG}"


def new_job_id() -> str:
    """An id that no job ever had: a killed worker's in-progress key would block its second use (design.md, rule 2)."""
    return TAG + uuid4().hex
