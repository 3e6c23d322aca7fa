-- ARGV: hint, then for each task that is left a packed list: its id, now, its steps as a list of fields and values, its
-- waits as a list of keys, numbers and values in waits:<key>, and two changes: the second one is applied if one of the
-- events is there. Returns as update.lua.
-- include: constants
-- include: base
-- include: head
-- include: flow
-- include: index
-- include: flush
-- include: insert
-- include: change
-- include: update_rows
-- include: events
-- include: leaves
-- include: when_full

local writes, changes = {}, {}
for i = 2, #ARGV do
  local id, now, steps, waits, change, woken = unpack(cmsgpack.unpack(ARGV[i]))
  local there, write = look_at_leave(id, now, steps, waits)
  writes[#writes + 1] = write
  for _, word in ipairs(there and woken or change) do changes[#changes + 1] = word end
end
local held = apply_changes(changes)
for i, write in ipairs(writes) do
  if held[i] == 1 then write() end
end
publish(ARGV[1])
return held
