-- ARGV: as for a claim, hint, then packed lists of changes. Returns what an update
-- returns, and rows.
-- include: base
-- include: insert
-- include: change
-- include: gate
-- include: gates
-- include: declare
-- include: update_rows
-- include: lanes
-- include: claim_rows
-- include: when_full

local held = apply_change_lists(8)
if gated then gated.later = true end
local later = admit_gates()
if later then held[#held + 1] = 1 end
publish(ARGV[7], later)
local rows = claim(ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6])
if gated then
  gated.later = false
  gated.flush()
end
return {held, rows}
