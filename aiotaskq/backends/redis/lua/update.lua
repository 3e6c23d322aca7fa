-- ARGV: hint, then packed lists of changes. Returns 1 or 0 for each change, and one more 1 if the time has changed at
-- which a gate may let a row pass.
-- include: constants
-- include: base
-- include: head
-- include: slots
-- include: gated_rows
-- include: index
-- include: flush
-- include with gates: gate
-- include with gates: gates
-- include with gates: declare
-- include: insert
-- include: change
-- include: update_rows
-- include: when_full

local held = apply_change_lists(2)
local later = admission and admission.admit()
if later then held[#held + 1] = 1 end
publish(ARGV[1], later)
return held
