-- ARGV: kind, now, then names of rows without an owner. Returns 1 or 0 for each: whether it existed.
local root, call = KEYS[1], redis.call
-- include: side

local answer = {}
for i = 3, #ARGV do
  local at = call('ZSCORE', root .. 'until:' .. ARGV[1], ARGV[i])
  answer[i - 2] = remove_side(ARGV[1] .. ':', ARGV[i]) and not (at and tonumber(at) <= tonumber(ARGV[2])) and 1 or 0
end
return answer
