"""Leases with fencing tokens, and writes by the owner alone: one Lua script, run once a call and batch.

What a script does is done at once or not at all, and the server's own clock decides what has expired.

    free ---- a gateway writes without token: a new token ---> held
    held ---- every batch of its owner, empty ones too ------> held, for LEASE_MS more
    held ---- LEASE_MS without one --------------------------> expired: free, but the fence remembers the token
    expired - its owner writes, nobody came between ---------> held, same token
    expired - another gateway writes: a new, higher token ---> held by that one; the first is stale for good
    held ---- the owner ends or releases it -----------------> free

- A token is the server's time in us, or one more than the token before: it rises even when the server has
  forgotten everything. A stale owner is who has another token than the fence.
- The gateway of a node that comes back (same name, no token) takes its calls at once, with a new token: its
  former self is stale.
- "forgotten": the owner has a token and the server no fence, since it came back empty, or the state had its TTL.
  Nothing is written then; the owner may send everything that it knows with the mark `again`.
- A call that is marked (`forget`) leaves nothing but its CDRs.
- Every batch may be sent twice, when its answer was lost: strings and hash fields are written over, a stream
  refuses an id that it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gateway.state.keys import PARTS, Part

Verb = Literal["set", "field", "line"]
Verdict = Literal["held", "taken", "stale", "forgotten"]
"""Taken and stale: refused, another gateway has the call, or had it since."""

SCRIPT: Final = """
local node, token, lease_ms, live_s, leave_s, mark =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local lease, fence = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
if token == '' then
  local holder = lease and string.match(lease, '^(%S+) ')
  if holder and holder ~= node then return {'taken', '', 0} end
  local now = redis.call('TIME')
  local newest = now[1] * 1000000 + now[2]
  if fence and tonumber(fence) >= newest then newest = tonumber(fence) + 1 end
  token = string.format('%.0f', newest)
elseif (lease and lease ~= node .. ' ' .. token) or (fence and fence ~= token) then
  return {'stale', '', 0}
elseif not fence and mark ~= 'again' then
  return {'forgotten', '', 0}
end
if mark == 'new' then
  for part = 3, #KEYS - 1 do redis.call('DEL', KEYS[part]) end
end
local full = 0
for i = 7, #ARGV, 5 do
  local verb, key, field, value = ARGV[i], KEYS[tonumber(ARGV[i + 1])], ARGV[i + 2], ARGV[i + 3]
  local most = tonumber(ARGV[i + 4])
  if verb == 'set' then
    redis.call('SET', key, value)
  elseif verb == 'field' then
    if redis.call('HLEN', key) >= most and redis.call('HEXISTS', key, field) == 0 then
      full = full + 1
    else
      redis.call('HSET', key, field, value)
    end
  else
    local added = redis.pcall('XADD', key, 'MAXLEN', '=', most, field, 'line', value)
    if type(added) == 'table' and added.err and not string.find(added.err, 'equal or smaller', 1, true) then
      return added
    end
  end
end
if leave_s == '' then
  redis.call('SET', KEYS[1], node .. ' ' .. token, 'PX', lease_ms)
else
  redis.call('DEL', KEYS[1])
  live_s = leave_s
  if redis.call('GET', KEYS[3]) then
    for part = 4, #KEYS - 1 do redis.call('DEL', KEYS[part]) end
  end
end
redis.call('SET', KEYS[2], token, 'EX', live_s)
for part = 3, #KEYS do redis.call('EXPIRE', KEYS[part], live_s) end
return {'held', token, full}
"""


FORGET: Final = """
local live = redis.call('EXISTS', KEYS[1])
local found = 0
for part = 4, #KEYS - 1 do found = found + redis.call('EXISTS', KEYS[part]) end
if live == 0 then
  for part = 4, #KEYS - 1 do redis.call('DEL', KEYS[part]) end
end
redis.call('SET', KEYS[3], '1', 'EX', ARGV[1])
return {live, found}
"""
"""ARGV: seconds that a gateway may still come back with what it knows of the call. What there is of it goes now, or
when the call ends; its CDRs stay: they say when and how long, and not who. Gives whether it lives, and how many
parts there were."""


@dataclass(frozen=True, slots=True)
class Write:
    """One record of a call on its way to Redis."""

    verb: Verb
    part: Part
    value: bytes
    field: str = ""
    """Field of a hash, id in a stream."""
    most: int = 0
    """Fields of a hash, entries of a stream."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes to Redis of one call at once. Without writes it renews the lease."""

    call: str
    token: str
    """Empty: the lease is to be had first."""
    writes: Sequence[Write] = ()
    mark: Literal["", "new", "again"] = ""
    """new: of an earlier call of that name only its CDR stays. again: the server may have forgotten the call."""
    leave_s: int | None = None
    """The lease is given back, and what there is of the call lives for so long."""

    def arguments(self, node: str, lease_ms: int, live_s: int) -> list[str | bytes | int]:
        """`ARGV` of the script."""
        head: list[str | bytes | int] = [node, self.token, lease_ms, live_s]
        head += ["" if self.leave_s is None else self.leave_s, self.mark]
        for write in self.writes:
            head += [write.verb, 1 + PARTS.index(write.part), write.field, write.value, write.most]
        return head


@dataclass(frozen=True, slots=True)
class Outcome:
    """The script's answer."""

    verdict: Verdict
    token: str = ""
    full: int = 0
    """Writes that had no room: their hash was full."""

    @classmethod
    def of(cls, answer: list[bytes | int]) -> Outcome:
        """From what redis-py gives."""
        verdict, token, full = answer
        assert isinstance(verdict, bytes) and isinstance(token, bytes)
        return cls(verdict.decode(), token.decode(), int(full))  # type: ignore[arg-type]
