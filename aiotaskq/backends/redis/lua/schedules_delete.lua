-- ARGV: ids. Returns 1 or 0 for each: whether there was a schedule.
-- include: constants
-- include: base
-- include: flush
-- include: when_full

local answer = {}
for i, row in ipairs(read_fields('schedules', ARGV)) do
  local id = ARGV[i]
  answer[i] = row and (not hashes.schedules or hashes.schedules[id] == nil) and 1 or 0
  set_field('schedules', id, false)
  for _, key in ipairs({'due', 'outbox'}) do set_score('schedules:' .. key, id, false) end
end
flush()
return answer
