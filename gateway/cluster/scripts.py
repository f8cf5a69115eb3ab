"""What gateways ask of Redis together: three Lua scripts over four keys, which lie in one hash slot.

| key | type | holds |
|---|---|---|
| `microturn:{cluster}:alive` | sorted set | node -> when its announcement runs out, ms of the server's clock |
| `microturn:{cluster}:nodes` | hash | node -> `node.Node` |
| `microturn:{cluster}:held` | hash | node -> how many of its calls count for each limit, JSON |
| `microturn:{cluster}:seen` | hash | node -> `GENERATION NUMBER` of its newest message |

- A node sends what it holds as a whole, never a difference: what is sent twice counts once.
- A limit's calls are those of all nodes that are alive: those of a dead one are free the moment that it is dead.
- A generation is given out when a process joins, as a lease's token is: whoever had that name before is stale.
- A message with a number that is not the next higher one came late, after its sender had given it up: ignored.
"""

from __future__ import annotations

from typing import Final

KEYS: Final = ("alive", "nodes", "held", "seen")

_KNOWN: Final = """
local node, generation, number = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local seen = redis.call('HGET', KEYS[4], node) or ''
local known, last = string.match(seen, '^(%d+) (%d+)$')
if generation == '' then
  local newest = now[1] * 1000000 + now[2]
  if known and tonumber(known) >= newest then newest = tonumber(known) + 1 end
  generation = string.format('%.0f', newest)
elseif not known then
  return {'forgotten'}
elseif known ~= generation then
  return {'stale'}
elseif tonumber(last) >= number then
  return {'late'}
end
"""

ANNOUNCE: Final = (
    _KNOWN
    + """
local ttl_ms, live_s, record, held = tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]
local former = ''
if ARGV[2] == '' then
  former = redis.call('HGET', KEYS[3], node) or ''
  if tonumber(redis.call('ZSCORE', KEYS[1], node) or '0') <= ms then former = '' end
  if former ~= '' and held == '{}' then held = former end
end
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ms - 60000)) do
  redis.call('ZREM', KEYS[1], gone)
  for part = 2, 4 do redis.call('HDEL', KEYS[part], gone) end
end
redis.call('ZADD', KEYS[1], ms + ttl_ms, node)
redis.call('HSET', KEYS[2], node, record)
redis.call('HSET', KEYS[3], node, held)
redis.call('HSET', KEYS[4], node, generation .. ' ' .. ARGV[3])
for part = 1, 4 do redis.call('EXPIRE', KEYS[part], live_s) end
local answer = {'ok', generation, former}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ms, '+inf')) do
  local found = redis.call('HGET', KEYS[2], name)
  if found then answer[#answer + 1] = found end
end
return answer
"""
)
"""ARGV: node, generation ("" to join), number, ttl_ms, live_s, record, held. Gives what is alive, itself included,
and to who joins what its former self held, which it goes on holding."""

TAKE: Final = (
    _KNOWN
    + """
local held = cjson.decode(ARGV[4])
local others = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ms, '+inf')) do
  local theirs = name ~= node and redis.call('HGET', KEYS[3], name)
  if theirs then others[#others + 1] = cjson.decode(theirs) end
end
local answer = {'ok', generation}
for i = 5, #ARGV do
  local full = ''
  local limits = cjson.decode(ARGV[i])
  for limit, most in pairs(limits) do
    local total = (held[limit] or 0) + 1
    for _, theirs in ipairs(others) do total = total + (theirs[limit] or 0) end
    if total > most then full = limit end
  end
  if full == '' then
    for limit, _ in pairs(limits) do held[limit] = (held[limit] or 0) + 1 end
  end
  answer[#answer + 1] = full
end
local left = '{}'
if next(held) then left = cjson.encode(held) end
redis.call('HSET', KEYS[3], node, left)
redis.call('HSET', KEYS[4], node, generation .. ' ' .. ARGV[3])
return answer
"""
)
"""ARGV: node, generation, number, held, and for each new call its limits as JSON: name -> the most of it. Gives for
each call in turn the limit that is full, or "": it counts then, for the calls after it as well."""

LEAVE: Final = (
    _KNOWN
    + """
redis.call('ZREM', KEYS[1], node)
for part = 2, 4 do redis.call('HDEL', KEYS[part], node) end
return {'ok', generation}
"""
)
"""ARGV: node, generation, number."""


def keys(namespace: str) -> list[str]:
    """All keys, in the order of `KEYS`."""
    return [f"{namespace}:{{cluster}}:{part}" for part in KEYS]
