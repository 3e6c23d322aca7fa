-- ARGV: hint, id, began_at, field and value of the step, the key of the event for which the task waits or '', now, and
-- two packed changes: the second one is applied if that event is there. Returns as update.lua.
-- include: constants
-- include: base
-- include: head
-- include: slots
-- include: gated_rows
-- include: index
-- include: flush
-- include: gate
-- include: gates
-- include: declare
-- include: insert
-- include: groups
-- include: change
-- include: update_rows
-- include: events
-- include: when_full

local id, key = ARGV[2], ARGV[6]
local there = key ~= '' and event_of(key, ARGV[7])
local held = apply_changes(there and ARGV[9] or ARGV[8])
if held[1] == 1 then
  if call('HSETNX', root .. 'steps:' .. id, ARGV[4], ARGV[5]) == 1 then call('SADD', root .. 'stepped', id) end
  local former = call('HGET', root .. 'waiting', id)
  if former then
    call('HDEL', root .. 'waits:' .. former, id)
    call('HDEL', root .. 'waiting', id)
    if call('EXISTS', root .. 'waits:' .. former) == 0 then call('SREM', root .. 'awaited', former) end
  end
  if key ~= '' and not there then
    call('HSET', root .. 'waits:' .. key, id, ARGV[3])
    call('HSET', root .. 'waiting', id, key)
    call('SADD', root .. 'awaited', key)
  end
end
local followed = admission.follow()
local later = admission.admit()
if later or followed then held[#held + 1] = later and 1 or 0 end
if followed then held[#held + 1] = followed end
publish(ARGV[1], later)
return held
