-- ARGV: stamp to begin behind or '', how many rows to look at. Returns the stamp of the last row looked at, '' at the
-- end, and the ids of those that wait for others.
-- include: constants
-- include: base
-- include: head
-- include: flow

local from = ARGV[1] == '' and '-' or '(' .. ARGV[1]
local stamps, ids, found = call('ZRANGEBYLEX', root .. 'is:live', from, '+', 'LIMIT', 0, ARGV[2]), {}, {}
for i, stamp in ipairs(stamps) do ids[i] = sub(stamp, 21) end
load_states(ids)
for _, id in ipairs(ids) do
  local row = parse(states[id])
  if row and row.flow and row.status == 'pending' and place_of(row).waits then found[#found + 1] = id end
end
return {#stamps == tonumber(ARGV[2]) and stamps[#stamps] or '', found}
