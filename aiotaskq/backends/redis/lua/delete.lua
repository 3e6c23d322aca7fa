-- ARGV: now, 1 if only ended rows are deleted, then ids. Returns how many rows were deleted, and 1 if the time has
-- changed at which a gate may let a row pass; then what has followed for groups, if any of the rows was in one: see
-- groups.lua.
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
-- include: remove
-- include: when_full

local deleted, ids = 0, {}
for i = 3, #ARGV do ids[i - 2] = ARGV[i] end
load_states(ids)
for _, id in ipairs(ids) do
  local row = states[id] and parse(states[id])
  if states[id] and not (ARGV[2] == '1' and row and LIVE[row.status]) then
    if row then remove(id, row, tonumber(ARGV[1])) else set_state(id, false) end
    deleted = deleted + 1
  end
end
flush()
local followed = admission.follow()
local later = admission.admit()
return {deleted, later and 1 or 0, followed}
