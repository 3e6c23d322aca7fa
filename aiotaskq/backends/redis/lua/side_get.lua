-- ARGV: kind, now, then names. Returns each text, or false.
-- include: side

local answer = {}
for i = 3, #ARGV do answer[i - 2] = is_live(ARGV[i], ARGV[2]) and call('HGET', side, ARGV[i]) end
return answer
