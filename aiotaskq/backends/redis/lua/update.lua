-- ARGV: hint, then packed lists of changes. Returns 1 or 0 for each change.
-- include: update_rows
-- include: when_full

local held = apply_changes(unpacked(2, #ARGV))
publish(ARGV[1])
return held
