"""The life of a task in Redis: one Lua script for each move, done at once or not at all.

    asked --BEGIN--> running --PUBLISH done, failed--> over
      |                |  ^
      |                |  +--BEGIN by another worker: the next attempt; the one before is stale
      +--CANCEL--------+----> over: its worker learns it with its next word (PUBLISH or RENEW)

All keys have one hash tag, so that a script may touch them together: on Redis Cluster they lie in one slot.

| key | type | holds | bound |
|---|---|---|---|
| `NS:{tasks}:queue` | stream, group `workers` | names of open tasks | `MOST_QUEUED`: beyond it ASK refuses |
| `NS:{tasks}:task:KEY` | hash | the order, its state, its attempt, its news so far | `KEEP_S` after its deadline |
| `NS:{tasks}:news:NODE` | stream | `records.News` for one gateway | `MOST_NEWS`, the oldest go first; `NEWS_S` |
| `NS:{tasks}:still:KEY` | list | one `records.Still`, until it is read | `STILL_S`; goes with its task |
| `NS:{tasks}:spent:CALL` | hash | tokens and money that a call has cost | `SPENT_S` |

A deadline is on the server's clock: clocks of gateways and workers need not agree. A task is over before its queue
entry goes, and nothing is written of a task that is over: its result is there once, however often it was worked at.
What was said stays no longer than the task is open: then its order and its text are taken out.
"""

from __future__ import annotations

from typing import Final

GROUP: Final = "workers"
MOST_QUEUED: Final = 10_000
MOST_NEWS: Final = 10_000
KEEP_S: Final = 600
"""A task asked for again so long after its deadline is still known."""
NEWS_S: Final = 3_600
SPENT_S: Final = 86_400
STILL_S: Final = 10
QUEUE_S: Final = 86_400
"""Of a queue that nobody asks anything of; a worker makes it anew."""

MEET: Final = """
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if type(made) == 'table' and made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
if redis.call('TTL', KEYS[1]) < 0 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
return 'ok'
"""
"""KEYS queue; ARGV group, queue_s. The queue and its group, harmless when they are there."""

ASK: Final = """
local queue, task = KEYS[1], KEYS[2]
local order, left_ms, most, keep_s = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('EXISTS', task) == 1 then return 'known' end
if redis.call('XLEN', queue) >= most then return 'full' end
local now = redis.call('TIME')
local deadline = now[1] * 1000 + math.floor(now[2] / 1000) + left_ms
local entry = redis.call('XADD', queue, '*', 'key', ARGV[5])
redis.call('HSET', task, 'order', order, 'state', 'asked', 'attempt', 0, 'number', 0, 'text', '',
  'entry', entry, 'deadline', string.format('%.0f', deadline),
  'key', ARGV[5], 'call', ARGV[6], 'task', ARGV[7], 'node', ARGV[8])
redis.call('EXPIRE', task, math.ceil(left_ms / 1000) + keep_s)
redis.call('EXPIRE', queue, ARGV[9])
return 'asked'
"""
"""KEYS queue, task; ARGV order, left_ms, most, keep_s, key, call, task, node,
queue_s. asked, known or full."""

_SAY: Final = """
local function say(task, news, state, text, note, worker, still)
  local number = redis.call('HINCRBY', task, 'number', 1)
  local names = redis.call('HMGET', task, 'key', 'call', 'task')
  redis.call('XADD', news, 'MAXLEN', '~', ARGV[1], '*', 'key', names[1], 'call', names[2], 'task', names[3],
    'number', number, 'state', state, 'text', text, 'note', note, 'worker', worker,
    'still', still or 0)
  redis.call('EXPIRE', news, ARGV[2])
  return number
end
local function leave(queue, task, entry, still)
  redis.call('XACK', queue, ARGV[3], entry)
  redis.call('XDEL', queue, entry)
  redis.call('HDEL', task, 'order', 'text')
  redis.call('DEL', still)
end
"""

BEGIN: Final = (
    _SAY
    + """
local queue, task, news = KEYS[1], KEYS[2], KEYS[3]
local worker, entry, most = ARGV[4], ARGV[5], tonumber(ARGV[6])
local state = redis.call('HGET', task, 'state')
if state ~= 'asked' and state ~= 'running' then
  leave(queue, task, entry, KEYS[4])
  return {'over', 0, 0, '', ''}
end
local now = redis.call('TIME')
local left_ms = redis.call('HGET', task, 'deadline') - (now[1] * 1000 + math.floor(now[2] / 1000))
local attempt = redis.call('HINCRBY', task, 'attempt', 1)
if left_ms <= 0 or attempt > most then
  redis.call('HSET', task, 'state', 'failed')
  say(task, news, 'failed', '', left_ms <= 0 and 'out of time' or 'its workers died', worker)
  leave(queue, task, entry, KEYS[4])
  return {'over', 0, 0, '', ''}
end
redis.call('HSET', task, 'state', 'running', 'worker', worker, 'entry', entry)
say(task, news, 'running', '', attempt > 1 and 'taken over from another worker' or '', worker)
return {'go', attempt, left_ms, redis.call('HGET', task, 'order'), redis.call('HGET', task, 'text')}
"""
)
"""KEYS queue, task, news, still; ARGV most_news, news_s, group, worker, entry, most_attempts."""

PUBLISH: Final = (
    _SAY
    + """
local queue, task, news = KEYS[1], KEYS[2], KEYS[3]
local worker, attempt, state, text, note, said = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9])
local now = redis.call('HMGET', task, 'state', 'attempt', 'text', 'entry')
if now[1] ~= 'running' or now[2] ~= attempt then return 'over' end
if text ~= '' and #now[3] > said then return 'ok' end
if text ~= '' then redis.call('HSET', task, 'text', now[3] .. text) end
say(task, news, state, text, note, worker)
if state ~= 'running' then
  redis.call('HSET', task, 'state', state)
  leave(queue, task, now[4], KEYS[4])
end
return 'ok'
"""
)
"""KEYS queue, task, news, still; ARGV most_news, news_s, group, worker, attempt, state, text, note, said (bytes of
text before this piece: sent twice, it is written once)."""

RENEW: Final = """
local now = redis.call('HMGET', KEYS[2], 'state', 'attempt', 'entry')
if now[1] ~= 'running' or now[2] ~= ARGV[2] then return 'over' end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, now[3], 'IDLE', ARGV[4], 'JUSTID')
return 'ok'
"""
"""KEYS queue, task; ARGV group, attempt, worker, idle_ms: with a long one another worker may have it at once."""

CANCEL: Final = """
local state = redis.call('HGET', KEYS[2], 'state')
if state ~= 'asked' and state ~= 'running' then return 'over' end
redis.call('HSET', KEYS[2], 'state', 'cancelled')
local entry = redis.call('HGET', KEYS[2], 'entry')
redis.call('XACK', KEYS[1], ARGV[1], entry)
redis.call('XDEL', KEYS[1], entry)
redis.call('HDEL', KEYS[2], 'order', 'text')
redis.call('DEL', KEYS[3])
return 'cancelled'
"""
"""KEYS queue, task, still; ARGV group."""

LOOK: Final = (
    _SAY
    + """
if redis.call('HGET', KEYS[1], 'state') ~= 'running' then return 0 end
local number = redis.call('HINCRBY', KEYS[1], 'stills', 1)
if number > tonumber(ARGV[3]) then return -1 end
redis.call('DEL', KEYS[3])
say(KEYS[1], KEYS[2], 'running', '', 'look', '', number)
return number
"""
)
"""KEYS task, news, still; ARGV most_news, news_s, most_stills. The number of the wish; 0 when the task is over, -1
when it has had as many as it may, whoever worked at it."""

SHOW: Final = """
local now = redis.call('HMGET', KEYS[1], 'state', 'stills')
if now[1] ~= 'running' or now[2] ~= ARGV[1] then return 'over' end
redis.call('DEL', KEYS[2])
redis.call('RPUSH', KEYS[2], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 'ok'
"""
"""KEYS task, still; ARGV number, still, still_s."""

RESERVE: Final = """
local spent = redis.call('HMGET', KEYS[1], 'tokens', 'money')
local tokens, money = tonumber(spent[1] or 0) + ARGV[1], tonumber(spent[2] or 0) + ARGV[2]
if (tonumber(ARGV[3]) > 0 and tokens > tonumber(ARGV[3])) or
   (tonumber(ARGV[4]) > 0 and money > tonumber(ARGV[4])) then return 0 end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.0f', tokens), 'money', string.format('%.0f', money))
redis.call('EXPIRE', KEYS[1], ARGV[5])
return 1
"""
"""KEYS spent; ARGV tokens, money (millionths), most_tokens, most_money, spent_s; a cap of 0 is none. With negative
amounts it gives back."""
