"""The generic cell rate algorithm in Lua, by Redis's own clock: one key holds when the next request
is due.

All limits that processes keep together are this one text: of callers (`rates.py`), of Daraja and of
questions to it (`sharing.py`). Three additions to the algorithm:

* Turns. Each may use only so much of the burst, so that under load the first finds room before the
  others do; and each has a share of the rate that is its own even then, charged to the common
  count, so that none starves.
* Slowing down. A factor, halved when Daraja says that it is too much, that recovers by a tenth of
  the rate a second.
* Taking several at once, as many as fit.
"""

from __future__ import annotations

from domain.adapters.redis.scripts import ALSO_WHEN_FULL

# Times are in microseconds. A key that is no longer due says the same as none, so it may expire.
_COMMON = f"""{ALSO_WHEN_FULL}
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function due_at(key) return math.max(tonumber(redis.call('GET', key) or '0'), now) end
local function keep(key, due)
  redis.call('SET', key, string.format('%d', due), 'PX', math.ceil((due - now) / 1000) + 1000)
end
local function slowed(key)
  local found = redis.call('HMGET', key, 'factor', 'at')
  if not found[1] then return 1, -math.huge end
  return math.min(1, tonumber(found[1]) + 0.1 * (now - tonumber(found[2])) / 1000000), tonumber(found[2])
end
"""

# KEYS: the due time; then, if there are turns, the turn's own due time and the factor. ARGV: the
# interval between requests, the time whose requests may come at once, the turn's part of those, its
# share of the rate, how many are wanted. Returns how many were taken, and how long to wait if none.
TAKE = f"""{_COMMON}
local interval = tonumber(ARGV[1]) / (KEYS[3] and slowed(KEYS[3]) or 1)
local burst = math.max(0, tonumber(ARGV[2]) - interval) * tonumber(ARGV[3])
local share, wanted, taken = tonumber(ARGV[4]), tonumber(ARGV[5]), 0
local due = due_at(KEYS[1])
local own = share > 0 and due_at(KEYS[2])
while taken < wanted and (due - now <= burst or (own and own <= now)) do
  due = due + interval
  if own then own = own + interval / share end
  taken = taken + 1
end
if taken > 0 then
  keep(KEYS[1], due)
  if own then keep(KEYS[2], own) end
  return {{taken, 0}}
end
local wait = due - now - burst
if own then wait = math.min(wait, own - now) end
return {{0, math.max(1, math.ceil(wait))}}
"""

# KEYS: the due time. ARGV: the interval, by which it is due earlier. What is due now has no key, so
# it cannot be due earlier.
GIVE_BACK = f"""{_COMMON}
local due = due_at(KEYS[1]) - tonumber(ARGV[1])
if due <= now then redis.call('DEL', KEYS[1]) else keep(KEYS[1], due) end
return {{0, 0}}
"""

# KEYS: the factor.
SLOW_DOWN = f"""{_COMMON}
local factor, at = slowed(KEYS[1])
if now - at < 1000000 then return 0 end
factor = math.max(0.05, factor / 2)
redis.call('HSET', KEYS[1], 'factor', string.format('%.6f', factor), 'at', string.format('%d', now))
redis.call('PEXPIRE', KEYS[1], 60000)
return 1
"""
