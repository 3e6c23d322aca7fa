-- ARGV: id, row, due or '', and '1' if its outbox has tasks, of each schedule. Returns for each the
-- row that has its id already, '' if it was inserted.
-- include: constants
-- include: base
-- include: flush
-- include: schedules

local answer = {}
for i = 1, #ARGV, 4 do
  local found = get_field('schedules', ARGV[i])
  answer[#answer + 1] = found or ''
  if not found then set_schedule(unpack(ARGV, i, i + 3)) end
end
flush()
return answer
