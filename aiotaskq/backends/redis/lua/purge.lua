-- ARGV: filter, status, limit, how many rows to skip, how many to look at.
-- Returns how many rows were deleted, and how many to skip in the next call, -1 at the end.
-- include: constants
-- include: base
-- include: head
-- include: slots
-- include: gated_rows
-- include: index
-- include: flush
-- include: filter
-- include: gate
-- include: gates
-- include: declare
-- include: insert
-- include: groups
-- include: remove
-- include: when_full

local ended, left, kept, look = 'ended:' .. ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local before = where.before and '(' .. where.before or '+inf'
local page = call('ZRANGEBYSCORE', root .. ended, '-inf', before, 'LIMIT', kept, look)
local deleted = 0
load_states(page)
for _, id in ipairs(page) do
  if deleted == left then break end
  local row = parse(states[id])
  if not row or row.status ~= ARGV[2] then
    set_score(ended, id, false)
  elseif matches(row, id) and not admission.stays(row, tonumber(where.before)) then
    remove(id, row)
    deleted = deleted + 1
  else
    kept = kept + 1
  end
end
admission.follow()
flush()
return {deleted, #page < look and -1 or kept}
