-- ARGV: seconds, those of the longer periods or '' for none, before, limit. Returns how many periods were rolled.
-- include: usage_text
-- include: history

local index, rolled = root .. 'history:' .. ARGV[1], 0
for _, at in ipairs(call('ZRANGEBYSCORE', index, '-inf', '(' .. ARGV[3], 'LIMIT', 0, ARGV[4])) do
  local key = index .. ':' .. at
  local fields = call('HGETALL', key)
  if ARGV[2] ~= '' then
    local begin = format('%.0f', at - at % (ARGV[2] * 1000000))
    for i = 1, #fields, 2 do add_period(ARGV[2], begin, fields[i], fields[i + 1]) end
  end
  call('DEL', key)
  call('ZREM', index, at)
  rolled = rolled + #fields / 2
  if rolled >= tonumber(ARGV[4]) then break end
end
return rolled
