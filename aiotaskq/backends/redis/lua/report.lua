-- ARGV: id, fence and progress as JSON of each task. Returns 1 or 0 for each: whether it was written.
-- include: constants
-- include: base
-- include: head
-- include: flow
-- include: when_full

local answer = {}
for i = 1, #ARGV, 3 do
  local row = row_of(ARGV[i])
  local held = row and row.status == 'running' and row.fence == ARGV[i + 1]
  if held then call('HSET', root .. 'progress', ARGV[i], ARGV[i + 2]) end
  answer[#answer + 1] = held and 1 or 0
end
return answer
