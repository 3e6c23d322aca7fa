-- ARGV: hint, id of a group, its new budget as JSON, now. Opens the gate of the group, or closes it. Returns nothing if
-- the group has no budget; 1 if the time has changed at which a gate may let a row pass, else 0.
-- include: constants
-- include: base
-- include: head
-- include: slots
-- include: gated_rows
-- include: index
-- include: flush
-- include: gate
-- include: gates
-- include: usage_text
-- include: usage
-- include: budgets
-- include: when_full

local field = ARGV[2] .. ' budget'
if call('HEXISTS', root .. 'groups:sums', field) == 0 then return {} end
set_field('groups:sums', field, ARGV[3])
if is_used_up(ARGV[2], sums_of(ARGV[2])) then close_budget(ARGV[2]) else open_budget(ARGV[2], tonumber(ARGV[4])) end
flush()
local later = admission.admit()
publish(ARGV[1], later)
return {later and 1 or 0}
