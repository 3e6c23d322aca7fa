-- ARGV: index, the highest score, limit. Returns ids and rows of the schedules in an index, the lowest score first.
-- include: constants
-- include: base
-- include: flush

local confirmed = ARGV[1] == 'schedules:due' and '^%d+ %-?%d+ 1 ' or ''
local answer, dropped
repeat
  answer, dropped = {}, false
  local ids = call('ZRANGEBYSCORE', root .. ARGV[1], '-inf', ARGV[2], 'LIMIT', 0, ARGV[3])
  local rows = read_fields('schedules', ids)
  for i, id in ipairs(ids) do
    if rows[i] and find(rows[i], confirmed) then
      answer[#answer + 1] = id
      answer[#answer + 1] = rows[i]
    else
      set_score(ARGV[1], id, false)
      dropped = true
    end
  end
  flush()
until not dropped
return answer
