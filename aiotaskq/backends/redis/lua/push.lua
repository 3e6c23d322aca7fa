-- ARGV: packed lists of rows, each row as id, body and state. Returns the numbers of the rows that were not inserted
-- because another row has their id or a key of theirs, and those other rows.
-- include: base
-- include: insert

local numbers, others = insert_lists(1)
flush()
return {numbers, read_rows(others)}
