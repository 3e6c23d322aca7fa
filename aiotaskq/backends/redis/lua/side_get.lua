-- ARGV: kind, now, then names of rows without an owner. Returns each text, or false.
local answer = {}
for i = 3, #ARGV do
  local at = redis.call('ZSCORE', KEYS[1] .. 'until:' .. ARGV[1], ARGV[i])
  local is_live = not at or tonumber(at) > tonumber(ARGV[2])
  answer[i - 2] = is_live and redis.call('HGET', KEYS[1] .. 'side:' .. ARGV[1] .. ':', ARGV[i])
end
return answer
