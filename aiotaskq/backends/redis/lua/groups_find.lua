-- ARGV: limit, id to begin behind or '', 'live' or 'ended' or '' for both. Returns ids, the newest group first.
-- include: constants
-- include: base

local bound, stamps, ids = '+', {}, {}
if ARGV[2] ~= '' then
  local state = call('HGET', root .. 'groups', ARGV[2])
  if not state then return {} end
  bound = '(' .. match(state, '^%d+ %d+ %d+ %d+ %d+ %d+ [01] %S+ (%d+)') .. ARGV[2]
end
for _, name in ipairs({'live', 'ended'}) do
  if ARGV[3] == '' or ARGV[3] == name then
    local found = call('ZREVRANGEBYLEX', root .. 'groups:' .. name, bound, '-', 'LIMIT', 0, ARGV[1])
    for _, stamp in ipairs(found) do stamps[#stamps + 1] = stamp end
  end
end
table.sort(stamps, function(a, b) return a > b end)
for i = 1, math.min(#stamps, tonumber(ARGV[1])) do ids[i] = sub(stamps[i], 21) end
return ids
