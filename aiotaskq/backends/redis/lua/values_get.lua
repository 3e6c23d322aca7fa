-- ARGV: now, then keys. Returns each value, or false.
-- include: values

local answer = {}
for i = 2, #ARGV do answer[i - 1] = is_live(ARGV[i], ARGV[1]) and call('HGET', values, ARGV[i]) end
return answer
