-- ARGV: kind, now, then names. Returns 1 or 0 for each: whether it existed.
-- include: side

local answer = {}
for i = 3, #ARGV do
  local was_live = is_live(ARGV[i], ARGV[2])
  answer[i - 2] = remove(ARGV[i]) and was_live and 1 or 0
end
return answer
