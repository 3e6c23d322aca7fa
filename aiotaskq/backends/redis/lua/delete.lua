-- ARGV: 1 if only ended rows are deleted, then ids. Returns how many rows were deleted, 1 if the time has changed at
-- which a gate may let a row pass, else 0, and the ids of rows that are left to a transaction: something follows.
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
-- include: remove
-- include: when_full

local deleted, ids, tied = 0, {}, {}
for i = 2, #ARGV do ids[i - 1] = ARGV[i] end
load_states(ids)
for _, id in ipairs(ids) do
  local row = states[id] and parse(states[id])
  if row and row.flow and row.status ~= 'completed' and gated.place_of(row).tied then
    tied[#tied + 1] = id
  elseif states[id] and not (ARGV[1] == '1' and row and LIVE[row.status]) then
    if row then remove(id, row) else set_state(id, false) end
    deleted = deleted + 1
  end
end
flush()
local later = admission.admit()
return {deleted, later and 1 or 0, tied}
