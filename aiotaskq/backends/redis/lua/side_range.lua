-- ARGV: kind, now, the first and the last name as bounds of ZRANGEBYLEX, limit, 1 for descending, 1 for texts.
-- Returns how many names were looked at, the last of these, and of each row its name, its text, and its until or ''.
-- include: side

local command = ARGV[6] == '1' and 'ZREVRANGEBYLEX' or 'ZRANGEBYLEX'
local found = call(command, names, ARGV[3], ARGV[4], 'LIMIT', 0, ARGV[5])
local answer = {#found, found[#found] or ''}
for _, name in ipairs(found) do
  local at = call('ZSCORE', expiry, name)
  if not at or tonumber(at) > tonumber(ARGV[2]) then
    answer[#answer + 1] = name
    answer[#answer + 1] = ARGV[7] == '1' and call('HGET', side, name) or ''
    answer[#answer + 1] = at and string.format('%.0f', at) or ''
  end
end
return answer
