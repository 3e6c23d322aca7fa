-- ARGV: kind, owner or '', now, the first and the last name as bounds of ZRANGEBYLEX, limit, 1 for descending, 1 for
-- texts. Returns how many names were looked at, the last of these, and of each row its name, its text, and its until or
-- ''.
local call, place = redis.call, ARGV[1] .. ':' .. ARGV[2]
local command = ARGV[7] == '1' and 'ZREVRANGEBYLEX' or 'ZRANGEBYLEX'
local found = call(command, KEYS[1] .. 'names:' .. place, ARGV[4], ARGV[5], 'LIMIT', 0, ARGV[6])
local answer = {#found, found[#found] or ''}
for _, name in ipairs(found) do
  local at = ARGV[2] == '' and call('ZSCORE', KEYS[1] .. 'until:' .. ARGV[1], name)
  if not at or tonumber(at) > tonumber(ARGV[3]) then
    answer[#answer + 1] = name
    answer[#answer + 1] = ARGV[8] == '1' and call('HGET', KEYS[1] .. 'side:' .. place, name) or ''
    answer[#answer + 1] = at and string.format('%.0f', at) or ''
  end
end
return answer
