-- ARGV: as for a claim, hint, then packed lists of changes. Returns what an update
-- returns, and rows.
-- include: constants
-- include: base
-- include: head
-- include: slots
-- include: gated_rows
-- include: index
-- include: flush
-- include: answer
-- include with gates: gate
-- include with gates: gates
-- include with gates: declare
-- include: insert
-- include: change
-- include: update_rows
-- include: lanes
-- include: claim_rows
-- include: when_full

local held = apply_change_lists(8)
local admits = gated and admission
if admits then gated.claim_follows = true end
local later = admits and admission.admit()
if later then held[#held + 1] = 1 end
publish(ARGV[7], later)
local rows = claim(ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6])
if admits then
  gated.claim_follows = false
  admission.write_unclaimed()
  flush()
end
return {held, rows}
