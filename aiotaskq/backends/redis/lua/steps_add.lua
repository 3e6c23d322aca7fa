-- ARGV: for each step the id and the fence of its task, the task's push stamp, the field and the value of the step.
-- Returns for each the value that is there now: the first one that was written. False if the task does not run so.
-- include: constants
-- include: base
-- include: head
-- include: flow
-- include: when_full

local answer = {}
for i = 1, #ARGV, 5 do
  local row, stored = row_of(ARGV[i]), false
  local runs = row and row.status == 'running' and row.fence == ARGV[i + 1]
  if runs and tonumber(row.seq) == tonumber(ARGV[i + 2]) then
    local key = root .. 'steps:' .. ARGV[i]
    if call('HSETNX', key, ARGV[i + 3], ARGV[i + 4]) == 1 then
      call('SADD', root .. 'stepped', ARGV[i])
      stored = ARGV[i + 4]
    else
      stored = call('HGET', key, ARGV[i + 3])
    end
  end
  answer[#answer + 1] = stored
end
return answer
