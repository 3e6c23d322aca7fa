-- ARGV: hint, then packed lists of changes. Returns 1 or 0 for each change.
-- include: base
-- include: insert
-- include: change
-- include: update_rows
-- include: when_full

local held = apply_change_lists(2)
publish(ARGV[1])
return held
