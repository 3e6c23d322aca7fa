-- ARGV: packed lists of changes. Returns 1 or 0 for each change.
-- include: base
-- include: insert
-- include: change
-- include: update_rows
-- include: when_full

return apply_change_lists(1)
