-- ARGV: as for a claim, hint, then packed lists of changes. Returns what an update
-- returns, and rows.
-- include: update_rows
-- include: claim_rows
-- include: when_full

local held = apply_changes(unpacked(8, #ARGV))
publish(ARGV[7])
local rows = claim(ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6])
return {held, rows}
