-- ARGV: ids. Returns how many rows there were, and 1 if the time has changed at which a gate may let a row pass.
-- include: base
-- include: gate
-- include: gates
-- include: remove
-- include: when_full

local deleted = 0
load_states(ARGV)
for _, id in ipairs(ARGV) do
  if states[id] then
    local row = parse(states[id])
    if row then remove(id, row) else set_state(id, false) end
    deleted = deleted + 1
  end
end
flush()
return {deleted, admission.admit() and 1 or 0}
