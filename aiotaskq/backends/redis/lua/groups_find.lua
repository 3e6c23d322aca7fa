-- ARGV: limit, where to begin as for ZREVRANGEBYLEX, then 'live' or 'ended' or both. Returns ids, the newest group
-- first.
-- include: constants
-- include: base

local stamps, ids = {}, {}
for n = 3, #ARGV do
  local found = call('ZREVRANGEBYLEX', root .. 'groups:' .. ARGV[n], ARGV[2], '-', 'LIMIT', 0, ARGV[1])
  for _, stamp in ipairs(found) do stamps[#stamps + 1] = stamp end
end
table.sort(stamps, function(a, b) return a > b end)
for i = 1, math.min(#stamps, tonumber(ARGV[1])) do ids[i] = sub(stamps[i], 21) end
return ids
