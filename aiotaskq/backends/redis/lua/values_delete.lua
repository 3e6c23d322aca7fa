-- ARGV: now, then keys. Returns 1 or 0 for each: whether there was a live value.
-- include: values

local answer = {}
for i = 2, #ARGV do
  local was_live = is_live(ARGV[i], ARGV[1])
  call('ZREM', expiry, ARGV[i])
  answer[i - 1] = call('HDEL', values, ARGV[i]) == 1 and was_live and 1 or 0
end
return answer
