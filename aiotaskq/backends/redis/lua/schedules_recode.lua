-- ARGV: id, row as it was read, and as it becomes, of each schedule. Returns 1 or 0 for each: whether it was as it was
-- read, and is written.
-- include: constants
-- include: base
-- include: flush
-- include: when_full

local answer = {}
for i = 1, #ARGV, 3 do
  local same = get_field('schedules', ARGV[i]) == ARGV[i + 1]
  if same then set_field('schedules', ARGV[i], ARGV[i + 2]) end
  answer[#answer + 1] = same and 1 or 0
end
flush()
return answer
