-- ARGV: ids. Returns rows; one that does not exist has no state.
-- include: base

return read_rows(ARGV)
