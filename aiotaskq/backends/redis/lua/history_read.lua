-- ARGV: seconds, since, until, limit. Returns up to so many of the begins since then and before until, each followed by
-- its fields and their values.
local index, answer = KEYS[1] .. 'history:' .. ARGV[1], {}
for _, at in ipairs(redis.call('ZRANGEBYSCORE', index, ARGV[2], '(' .. ARGV[3], 'LIMIT', 0, ARGV[4])) do
  answer[#answer + 1] = at
  answer[#answer + 1] = redis.call('HGETALL', index .. ':' .. at)
end
return answer
