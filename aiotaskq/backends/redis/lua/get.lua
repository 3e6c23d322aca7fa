-- ARGV: ids. Returns rows; one that does not exist has no state.
-- include: constants
-- include: base
-- include: head
-- include: flow
-- include: answer

return read_rows(ARGV)
