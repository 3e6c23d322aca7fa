-- ARGV: filter, status, limit, how many rows to skip, how many to look at.
-- Returns how many rows were deleted, how many to skip in the next call, and 1 if there are no more, else 0; then id
-- and group, or '', of those to skip that are left to a transaction.
-- include: constants
-- include: base
-- include: head
-- include: flow
-- include: index
-- include: flush
-- include: filter
-- include: insert
-- include: remove
-- include: when_full

local ended, left, kept, look = 'ended:' .. ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local before = where.before and '(' .. where.before or '+inf'
local page = call('ZRANGEBYSCORE', root .. ended, '-inf', before, 'LIMIT', kept, look)
local deleted, tied = 0, {}
load_states(page)
for _, id in ipairs(page) do
  if deleted == left then break end
  local row = parse(states[id])
  if not row or row.status ~= ARGV[2] then
    set_score(ended, id, false)
  elseif not matches(row, id) then
    kept = kept + 1
  elseif not row.flow or not is_tied(row) then
    remove(id, row)
    deleted = deleted + 1
  else
    tied[#tied + 1], tied[#tied + 2] = id, cjson.decode(place_of(row).flow).group or ''
    kept = kept + 1
  end
end
flush()
return {deleted, kept, #page < look and 1 or 0, tied}
