"""What each verb that writes does inside Redis: Lua scripts, each of which runs as one step."""

from __future__ import annotations

from aiotaskq.backends.redis_link import Script
from aiotaskq.backends.redis_lua import BASE, FULL, MATCHES, OPEN_QUEUES, PUSH_ROW, REMOVE_ROW

OPEN = Script("""
local there = redis.call('GET', KEYS[1] .. 'format')
if not there then redis.call('SET', KEYS[1] .. 'format', ARGV[1]) end
return there or ARGV[1]
""")

# ARGV: rows. Answers with pairs: the number of a row, and what is in its way.
PUSH = Script(
    BASE
    + PUSH_ROW
    + """
local answer = {}
for i, packed in ipairs(ARGV) do
  local other = push(cmsgpack.unpack(packed))
  if other then
    answer[#answer + 1] = i
    answer[#answer + 1] = read(other)
  end
end
finish()
return answer
"""
)

# ARGV: owner, now, limit, lease_until or '', started_at, packed queues or ''. Answers with rows.
CLAIM = Script(
    BASE
    + OPEN_QUEUES
    + FULL
    + """
local owner, now, left, lease, started = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
want(ARGV[6])
sweep(now)

local lanes, priorities = {}, {}
for _, lane in ipairs(call('ZRANGEBYSCORE', root .. 'heads', '-inf', now)) do
  local priority, queue = split(lane)
  if is_open(queue) then
    if not lanes[priority] then
      lanes[priority] = {}
      priorities[#priorities + 1] = priority
    end
    table.insert(lanes[priority], lane)
  end
end
table.sort(priorities)

local function before(a, b)
  if a.at ~= b.at then return a.at < b.at end
  return a.stamp < b.stamp
end

local function due(names)
  local found = {}
  for _, lane in ipairs(names) do
    local part = call('ZRANGEBYSCORE', root .. 'lane:' .. lane, '-inf', now, 'WITHSCORES', 'LIMIT', 0, left)
    for i = 1, #part, 2 do found[#found + 1] = {lane = lane, stamp = part[i], at = tonumber(part[i + 1])} end
  end
  if #names > 1 then table.sort(found, before) end
  return found
end

local answer = {}
local function take(entry)
  local id = id_of(entry.stamp)
  local key = root .. 'task:' .. id
  local row = call('HGETALL', key)
  local f = complete(set({}, row, 1))
  if f.status ~= 'pending' or lane_of(f) ~= entry.lane or stamp(f.seq, id) ~= entry.stamp then
    call('ZREM', root .. 'lane:' .. entry.lane, entry.stamp)
    touched[entry.lane] = true
    return
  end
  if f.expires_at and tonumber(f.expires_at) <= tonumber(now) then return lapse(id, f) end
  unindex(id, f)
  if type(redis.pcall('HINCRBY', key, 'fence', 1)) == 'table' then call('HSET', key, 'fence', '1') end  -- no number
  local changed = {'status', 'running', 'lease_owner', owner, 'started_at', started}
  if lease ~= '' then changed[7], changed[8] = 'lease_until', lease end
  local stale = f.lease_until and lease == ''
  if stale then call('HDEL', key, 'lease_until') end
  call('HSET', key, unpack(changed))
  f.status, f.lease_until = 'running', lease ~= '' and lease or nil
  index(id, f)
  if stale then
    row = read(id)
  else  -- of a field that is there twice the later one counts
    for _, word in ipairs(changed) do row[#row + 1] = word end
    row[#row + 1], row[#row + 2], row[#row + 3] = 'fence', call('HGET', key, 'fence'), id
  end
  answer[#answer + 1] = row
  left = left - 1
end

for _, priority in ipairs(priorities) do
  while left > 0 do
    local found = due(lanes[priority])
    if #found == 0 then break end
    for i = 1, math.min(left, #found) do take(found[i]) end
  end
end
finish()
return answer
"""
)

# ARGV: changes. Answers with 1 or 0 for each.
UPDATE = Script(
    BASE
    + PUSH_ROW
    + FULL
    + """
local answer = {}
for i, packed in ipairs(ARGV) do
  local c = cmsgpack.unpack(packed)
  local f, key = facts(c.id), root .. 'task:' .. c.id
  local held = f and f.status == c.status and f.fence == c.fence
    and (not c.lease or (f.lease_until or 'none') == c.lease)
    and (not c.cancel or (f.cancel_requested or '0') == c.cancel)
  if held and c.revived then
    local newer = holder('unique', f.unique_key)
    held = not newer or newer == c.id
  end
  if held then
    unindex(c.id, f)
    if #c.gone > 0 then call('HDEL', key, unpack(c.gone)) end
    call('HSET', key, unpack(c.row))
    for _, name in ipairs(c.gone) do f[name] = nil end
    index(c.id, complete(set(f, c.row, 1)))
    for _, row in ipairs(c.follow) do push(row) end
  end
  answer[i] = held and 1 or 0
end
finish()
return answer
"""
)

# ARGV: lease_until, then id and fence of each. Answers with 1 or 0 (the cancel flag), -1 where it is lost.
HEARTBEAT = Script(
    BASE
    + FULL
    + """
local answer = {}
for i = 2, #ARGV, 2 do
  local key = root .. 'task:' .. ARGV[i]
  local row = call('HMGET', key, 'status', 'fence', 'cancel_requested')
  if row[1] == 'running' and (row[2] or '0') == ARGV[i + 1] then
    call('HSET', key, 'lease_until', ARGV[1])
    call('ZADD', root .. 'leases', ARGV[1], ARGV[i])
    answer[#answer + 1] = row[3] == '1' and 1 or 0
  else
    answer[#answer + 1] = -1
  end
end
return answer
"""
)

# ARGV: id, fence and JSON of each. Answers with 1 or 0.
REPORT = Script(
    BASE
    + FULL
    + """
local answer = {}
for i = 1, #ARGV, 3 do
  local key = root .. 'task:' .. ARGV[i]
  local row = call('HMGET', key, 'status', 'fence')
  local held = row[1] == 'running' and (row[2] or '0') == ARGV[i + 1]
  if held then call('HSET', key, 'progress', ARGV[i + 2]) end
  answer[#answer + 1] = held and 1 or 0
end
return answer
"""
)

# ARGV: ids. Answers with 1 or 0: whether it runs (and is flagged now).
CANCEL = Script(
    BASE
    + FULL
    + """
local answer = {}
for i, id in ipairs(ARGV) do
  local runs = call('HGET', root .. 'task:' .. id, 'status') == 'running'
  if runs then call('HSET', root .. 'task:' .. id, 'cancel_requested', '1') end
  answer[i] = runs and 1 or 0
end
return answer
"""
)

# ARGV: filter, status, limit, how many to pass over, rows looked at.
# Answers with the number of deleted rows, and of those to pass over next, -1 at the end.
PURGE = Script(
    BASE
    + MATCHES
    + REMOVE_ROW
    + FULL
    + """
local ended, left, kept, look = root .. 'ended:' .. ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local before = where.before and '(' .. where.before or '+inf'
local page = call('ZRANGEBYSCORE', ended, '-inf', before, 'LIMIT', kept, look)
local deleted = 0
for _, id in ipairs(page) do
  if deleted == left then break end
  local f = facts(id)
  if not f or f.status ~= ARGV[2] then
    call('ZREM', ended, id)
  elseif matches(f) then
    remove(id, f)
    deleted = deleted + 1
  else
    kept = kept + 1
  end
end
finish()
return {deleted, #page < look and -1 or kept}
"""
)

# ARGV: ids. Answers with the number of those that were there.
DELETE = Script(
    BASE
    + REMOVE_ROW
    + FULL
    + """
local deleted = 0
for _, id in ipairs(ARGV) do
  local f = facts(id)
  if f then
    remove(id, f)
    deleted = deleted + 1
  end
end
finish()
return deleted
"""
)

# ARGV: queue, 1 or 0.
PAUSE = Script(
    BASE
    + FULL
    + """
call(ARGV[2] == '1' and 'SADD' or 'SREM', root .. 'paused', ARGV[1])
"""
)
