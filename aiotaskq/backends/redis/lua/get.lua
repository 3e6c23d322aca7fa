-- ARGV: ids. Returns rows; one that does not exist has no state.
-- include: answer

return read_rows(ARGV)
