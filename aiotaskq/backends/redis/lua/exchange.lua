-- ARGV: as for a claim, hint, then packed lists of changes. Returns 1 or 0 for each change, and rows.
-- include: base
-- include: insert
-- include: change
-- include: update_rows
-- include: lanes
-- include: claim_rows
-- include: when_full

local held = apply_change_lists(8)
publish(ARGV[7])
return {held, claim(ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6])}
