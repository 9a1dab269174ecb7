"""The generic cell rate algorithm in Lua, by the clock of Redis.

One key holds the time at which the next request is due. All limits that processes share use this
algorithm: the callers' rates (`rates.py`), and the limits of requests and inquiries to Daraja
(`sharing.py`). Our version has four additions:

* Classes of requests. Each class may use only a part of the burst. Under load, a class with a
  larger part still finds room when the classes with smaller parts do not. Each class also has its
  own share of the rate, so the other classes cannot block it for ever. A request that uses this
  share also counts against the common limit.
* Slowing down. When Daraja answers that we send too much, a script halves a factor of the rate. The
  factor recovers by a tenth of the full rate each second.
* Several requests in one call: the script grants as many as fit.
* Charging afterwards, for a caller whose burst is so large that a few requests do not matter.
"""

from __future__ import annotations

from domain.adapters.redis.scripts import ALSO_WHEN_FULL

# Times are in microseconds. A key whose due time has passed means the same as a missing key, so
# keys may expire.
_COMMON = f"""{ALSO_WHEN_FULL}
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function due_at(key) return math.max(tonumber(redis.call('GET', key) or '0'), now) end
local function store(key, due)
  redis.call('SET', key, string.format('%d', due), 'PX', math.ceil((due - now) / 1000) + 1000)
end
local function current_factor(key)
  local stored = redis.call('HMGET', key, 'factor', 'at')
  if not stored[1] then return 1, -math.huge end
  local at = tonumber(stored[2])
  return math.min(1, tonumber(stored[1]) + 0.1 * (now - at) / 1000000), at
end
"""

# KEYS: the due time; then, if there are classes, the due time of the class and the factor.
# ARGV: the interval between requests, the sum of the intervals of a burst, the class's part of the
# burst, its share of the rate, the number of requests that are wanted.
# Returns the number of requests that were granted, and the time after which the next one can be
# granted, if some were not.
CHARGE = f"""{_COMMON}
local interval = tonumber(ARGV[1]) / (KEYS[3] and current_factor(KEYS[3]) or 1)
local burst = math.max(0, tonumber(ARGV[2]) - interval) * tonumber(ARGV[3])
local share, wanted, granted = tonumber(ARGV[4]), tonumber(ARGV[5]), 0
local due = due_at(KEYS[1])
local own = share > 0 and due_at(KEYS[2])
while granted < wanted and (due - now <= burst or (own and own <= now)) do
  due = due + interval
  if own then own = own + interval / share end
  granted = granted + 1
end
if granted > 0 then
  store(KEYS[1], due)
  if own then store(KEYS[2], own) end
end
if granted >= wanted then return {{granted, 0}} end
local wait = due - now - burst
if own then wait = math.min(wait, own - now) end
return {{granted, math.max(1, math.ceil(wait))}}
"""

# KEYS: the due time. ARGV: the interval, by which the due time moves back. A due time that has
# passed has no key, so it cannot move further back.
REFUND = f"""{_COMMON}
local due = due_at(KEYS[1]) - tonumber(ARGV[1])
if due <= now then redis.call('DEL', KEYS[1]) else store(KEYS[1], due) end
return {{0, 0}}
"""

# Charges requests that were let in already, so the due time may move beyond the burst.
# KEYS: the due time of each caller. ARGV: for each caller the interval, the sum of the intervals of
# a burst, and the number of requests. A negative number undoes charges.
# Returns for each caller the time after which its next request is allowed, or 0.
CHARGE_AFTERWARDS = f"""{_COMMON}
local waits = {{}}
for i, key in ipairs(KEYS) do
  local interval = tonumber(ARGV[3 * i - 2])
  local burst = math.max(0, tonumber(ARGV[3 * i - 1]) - interval)
  local due = due_at(key) + interval * tonumber(ARGV[3 * i])
  if due <= now then redis.call('DEL', key) else store(key, due) end
  waits[i] = math.max(0, math.ceil(due - now - burst))
end
return waits
"""

# KEYS: the factor.
SLOW_DOWN = f"""{_COMMON}
local factor, at = current_factor(KEYS[1])
if now - at < 1000000 then return 0 end
factor = math.max(0.05, factor / 2)
redis.call('HSET', KEYS[1], 'factor', string.format('%.6f', factor), 'at', string.format('%d', now))
redis.call('PEXPIRE', KEYS[1], 60000)
return 1
"""
