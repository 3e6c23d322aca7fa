-- ARGV: hint, what a transaction writes but for rows (packed, see transaction.py), packed lists of changes, of rows
-- whose push may be refused, and of other rows. Everything is written, or nothing.
-- Returns 1, the numbers of the rows that may be refused and were not inserted because another row has their id or a
-- key of theirs, those other rows, and 1 or 0 as an update. If something has changed since it was read: 0, and its key
-- and field. If there is no room: -1, and how many rows are too many. If too many rows would wait at a gate: -2, its
-- key, and how many may wait. If a change does not hold: -3, and how many are before it.
-- include: constants
-- include: base
-- include: head
-- include: slots
-- include: gated_rows
-- include: index
-- include: flush
-- include: answer
-- include: gate
-- include: gates
-- include: declare
-- include: insert
-- include: change
-- include: lanes
-- include: room
-- include: remove
-- include: budgets
-- include: notes

in_transaction = true
local given, at, applied = cmsgpack.unpack(ARGV[2]), 3, 0

for _, check in ipairs(given.checks) do
  local key, fields, digests = unpack(check)
  if key == 'state' then load_states(fields) end
  local values = key ~= 'state' and read_fields(key, fields)
  for i, field in ipairs(fields) do
    local value
    if values then value = values[i] else value = states[field] end
    if (value and redis.sha1hex(value) or '') ~= digests[i] then return {0, key .. ' ' .. field} end
  end
end
if given.refused == 0 then call('DEL', root .. 'room') end  -- as in when_full.lua

-- How many rows are ready, of a push with a bound.
local ready, instant, now = 0, nil, tonumber(given.now)
if given.maxsize then
  sweep_expired(given.now)
  instant = bound_instant(now)
  for _, lane in ipairs(call('ZRANGEBYSCORE', root .. 'heads', '-inf', instant)) do
    if is_open(queue_of(lane)) then ready = ready + call('ZCOUNT', root .. 'lane:' .. lane, '-inf', instant) end
  end
end

local function is_ready(row)
  return row and row.status == 'pending' and is_open(queue_of(row.lane)) and tonumber(row.run_at) <= tonumber(instant)
    and (row.expires == '-' or tonumber(row.expires) > now)
end

load_states(given.deleted)
for _, id in ipairs(given.deleted) do
  local row = parse(states[id])
  if row then remove(id, row) end
end
for n = at, at + given.changes - 1 do
  local changes, ids = cmsgpack.unpack(ARGV[n]), {}
  for i = 1, #changes, 6 do ids[#ids + 1] = changes[i] end
  load_states(ids)
  for i = 1, #changes, 6 do
    if given.maxsize and is_ready(row_of(changes[i])) then ready = ready - 1 end
    if not apply_change(unpack(changes, i, i + 5)) then return {-3, applied} end
    applied = applied + 1
  end
end
at = at + given.changes
for n = at, at + given.refused - 1 do insert_list(cmsgpack.unpack(ARGV[n])) end
if given.maxsize and entering > 0 and ready + entering > given.maxsize then
  return {-1, ready + entering - given.maxsize}
end
if given.refused > 0 then
  local full, most = admission.declare()
  if full then return {-2, full, most} end
end
for n = at + given.refused, #ARGV do
  local rows = cmsgpack.unpack(ARGV[n])
  for i = 1, #rows, 3 do insert(rows[i], rows[i + 1], rows[i + 2]) end
end
admission.declare(true)

for i = 1, #given.fields, 3 do set_field(given.fields[i], given.fields[i + 1], given.fields[i + 2]) end
for i = 1, #given.scores, 3 do set_score(given.scores[i], given.scores[i + 1], given.scores[i + 2]) end
for i = 1, #given.lists, 2 do call_in_chunks('RPUSH', given.lists[i], given.lists[i + 1]) end
for _, key in ipairs(given.unlinked) do call('UNLINK', root .. key) end
for i = 1, #given.notes, 5 do append_notes(given.notes[i], given.notes[i + 1], 1, unpack(given.notes, i + 2, i + 4)) end
for i = 1, #given.closed do close_budget(given.closed[i]) end
for i = 1, #given.opened do open_budget(given.opened[i], now) end
flush()
local later = admission.admit()
publish(ARGV[1], later)
return {1, numbers, read_rows(others), later and 1 or 0}
