-- ARGV: filter, packed statuses, rows wanted, then ids. Returns how many of these rows were looked at, and
-- those that match.
-- include: constants
-- include: base
-- include: head
-- include: flow
-- include: index
-- include: answer
-- include: filter

local statuses, ids, found, seen = {}, {}, {}, 0
for _, status in ipairs(cmsgpack.unpack(ARGV[2])) do statuses[status] = true end
for i = 4, #ARGV do ids[i - 3] = ARGV[i] end
load_states(ids)
for i, id in ipairs(ids) do
  local row = parse(states[id])
  if states[id] and (not row or statuses[row.status] and matches(row, id)) then found[#found + 1] = id end
  seen = i
  if #found == tonumber(ARGV[3]) then break end
end
return {seen, read_rows(found)}
