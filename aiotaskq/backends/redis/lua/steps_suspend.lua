-- ARGV: hint, then for each task that is left a packed list: its id, now, its steps as a list of fields and values, its
-- waits as a list of keys, numbers and values in waits:<key>, and two changes: the second one is applied if one of the
-- events is there. Returns as update.lua.
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
-- include: change
-- include: update_rows
-- include: events
-- include: when_full

local leaves, changes = {}, {}
for i = 2, #ARGV do
  local leave = cmsgpack.unpack(ARGV[i])
  local id, now, steps, waits, change, woken = unpack(leave)
  local left, found, there = {}, {}, false
  for w = 1, #waits, 3 do
    local key, nth, wait = waits[w], waits[w + 1], waits[w + 2]
    local stored = event_of(key, now)
    if stored then found[#found + 1] = {id, key, nth, wait, stored} end
    -- One of an earlier run may have been answered since.
    if stored or call('HEXISTS', root .. 'steps:' .. id, event_field(key, nth, wait)) == 1 then
      there = true
    else
      left[#left + 1] = {key, nth, wait}
    end
  end
  leaves[#leaves + 1] = {id = id, steps = steps, left = left, found = found}
  for _, word in ipairs(there and woken or change) do changes[#changes + 1] = word end
end
local held = apply_changes(changes)
for i, leave in ipairs(leaves) do
  if held[i] == 1 then
    local id = leave.id
    forget_waits(id)
    for s = 1, #leave.steps, 2 do call('HSETNX', root .. 'steps:' .. id, leave.steps[s], leave.steps[s + 1]) end
    call('SADD', root .. 'stepped', id)
    for _, each in ipairs(leave.found) do answer(unpack(each)) end
    for _, wait in ipairs(leave.left) do
      local key, nth = wait[1], wait[2]
      call('HSET', root .. 'waits:' .. key, nth .. ' ' .. id, wait[3])
      call('SADD', root .. 'waiting:' .. id, nth .. ' ' .. key)
      call('SADD', root .. 'awaited', key)
    end
  end
end
local later = admission.admit()
if later then held[#held + 1] = 1 end
publish(ARGV[1], later)
return held
