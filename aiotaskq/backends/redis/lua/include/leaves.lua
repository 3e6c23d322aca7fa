-- Tasks that are left to wait for events. Needs events.lua.

-- Look which of the events of a leave are there. It is a list: the id, now, its steps as a list of fields and values,
-- and its waits as a list of keys, numbers and values in waits:<key>. Return whether one is there, and what writes it.
local function look_at_leave(id, now, steps, waits)
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
  return there, function()
    forget_waits(id)
    for s = 1, #steps, 2 do call('HSETNX', root .. 'steps:' .. id, steps[s], steps[s + 1]) end
    call('SADD', root .. 'stepped', id)
    for _, each in ipairs(found) do answer(unpack(each)) end
    for _, wait in ipairs(left) do
      local key, nth = wait[1], wait[2]
      call('HSET', root .. 'waits:' .. key, nth .. ' ' .. id, wait[3])
      call('SADD', root .. 'waiting:' .. id, nth .. ' ' .. key)
      call('SADD', root .. 'awaited', key)
    end
  end
end
