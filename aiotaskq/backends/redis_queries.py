"""The Lua scripts that only read (and drop, on the way, entries of an index whose row is gone)."""

from __future__ import annotations

from aiotaskq.backends.redis_link import Script
from aiotaskq.backends.redis_lua import BASE, MATCHES, OPEN_QUEUES

# ARGV: ids. Answers with rows; one that is not there has no fields.
GET = Script(
    BASE
    + """
local answer = {}
for i, id in ipairs(ARGV) do answer[i] = read(id) end
return answer
"""
)

# ARGV: ids. Answers with 1 or 0: whether it runs and was asked to stop.
CANCELLING = Script(
    BASE
    + """
local answer = {}
for i, id in ipairs(ARGV) do
  local row = call('HMGET', root .. 'task:' .. id, 'status', 'cancel_requested')
  answer[i] = row[1] == 'running' and row[2] == '1' and 1 or 0
end
return answer
"""
)

# ARGV: filter, packed statuses, cursor or '', id to begin behind or '', rows wanted, rows looked at.
# Answers with the cursor behind the last one looked at, '' at the end, and then rows.
FIND = Script(
    BASE
    + MATCHES
    + """
-- Strings are compared in the server's locale, which digits do not mind, and byte for byte in sorted sets.
local function less(a, b)
  local x, y = string.sub(a, 1, 20), string.sub(b, 1, 20)
  if x ~= y then return x < y end
  for i = 21, math.min(#a, #b) do
    x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local cursor, wanted, look = ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[6])
local from = '+'
if cursor ~= '' then
  from = '(' .. cursor
elseif ARGV[4] ~= '' then
  local f = facts(ARGV[4])
  if f then from = '(' .. stamp(f.seq, ARGV[4]) end
end
local lists = {}
for _, status in ipairs(cmsgpack.unpack(ARGV[2])) do
  local list = call('ZREVRANGEBYLEX', root .. 'is:' .. status, from, '-', 'LIMIT', 0, look)
  if #list > 0 then lists[#lists + 1] = {list = list, at = 1} end
end

local function newest()
  local best
  for _, l in ipairs(lists) do
    if l.list[l.at] and (not best or less(best.list[best.at], l.list[l.at])) then best = l end
  end
  if not best then return end
  best.at = best.at + 1
  return best.list[best.at - 1]
end

local answer = {''}
for i = 1, look do
  local stamped = newest()
  if not stamped then break end
  local id = id_of(stamped)
  local row = call('HMGET', root .. 'task:' .. id, 'type', 'queue', 'scheduler_task_id', 'completed_at')
  if row[1] and matches({type = row[1], queue = row[2], scheduler_task_id = row[3], completed_at = row[4]}) then
    answer[#answer + 1] = read(id)
  end
  if #answer > wanted or i == look then
    answer[1] = stamped
    break
  end
end
return answer
"""
)

# ARGV: now, limit. Answers with rows, the longest overdue first.
OVERDUE = Script(
    BASE
    + """
local found = {}
for name, status in pairs({leases = 'running', expiring = 'pending', expired = 'pending'}) do
  local part = call('ZRANGEBYSCORE', root .. name, '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2])
  for i = 1, #part, 2 do
    local f = facts(part[i])
    if f and f.status == status then
      found[#found + 1] = {id = part[i], at = tonumber(part[i + 1])}
    else
      call('ZREM', root .. name, part[i])
    end
  end
end
table.sort(found, function(a, b) return a.at < b.at end)
local answer = {}
for i = 1, math.min(#found, tonumber(ARGV[2])) do answer[i] = read(found[i].id) end
return answer
"""
)

# ARGV: now, packed queues or '', whether to count all. Answers with the number of ready rows, the first run_at, counts.
LOOK = Script(
    BASE
    + OPEN_QUEUES
    + """
want(ARGV[2])
sweep(ARGV[1])
finish()
local ready, first, now = 0, nil, tonumber(ARGV[1])
local heads = call('ZRANGE', root .. 'heads', 0, -1, 'WITHSCORES')
for i = 1, #heads, 2 do
  local _, queue = split(heads[i])
  if is_open(queue) then
    first = first or heads[i + 1]
    if tonumber(heads[i + 1]) > now then break end
    ready = ready + call('ZCOUNT', root .. 'lane:' .. heads[i], '-inf', ARGV[1])
  end
end
return {ready, first or false, ARGV[3] == '1' and call('HGETALL', root .. 'counts') or false}
"""
)
