-- ARGV: ids. Returns 1 or 0 for each: whether it is running and its cancel flag is set.
-- include: constants
-- include: base
-- include: head
-- include: flow

local answer = {}
load_states(ARGV)
for i, id in ipairs(ARGV) do
  local row = parse(states[id])
  answer[i] = row and row.status == 'running' and row.cancel == '1' and 1 or 0
end
return answer
