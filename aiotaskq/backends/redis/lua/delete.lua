-- ARGV: 1 if only ended rows are deleted, then ids. Returns how many rows were deleted, and the ids of rows that
-- are left to a transaction: something follows.
-- include: constants
-- include: base
-- include: head
-- include: flow
-- include: index
-- include: flush
-- include: insert
-- include: remove
-- include: when_full

local deleted, ids, tied = 0, {}, {}
for i = 2, #ARGV do ids[i - 1] = ARGV[i] end
load_states(ids)
for _, id in ipairs(ids) do
  local row = states[id] and parse(states[id])
  if row and row.flow and (LIVE[row.status] or row.status ~= 'completed' and is_tied(row)) then
    tied[#tied + 1] = id
  elseif states[id] and not (ARGV[1] == '1' and row and LIVE[row.status]) then
    if row then remove(id, row) else set_state(id, false) end
    deleted = deleted + 1
  end
end
flush()
return {deleted, tied}
