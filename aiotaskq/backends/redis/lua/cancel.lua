-- ARGV: ids. Sets the cancel flags, and returns 1 or 0 for each: whether the task is running.
-- include: constants
-- include: base
-- include: head
-- include: flow
-- include: flush
-- include: when_full

local answer = {}
load_states(ARGV)
for i, id in ipairs(ARGV) do
  local row = parse(states[id])
  local runs = row and row.status == 'running'
  if runs then set_state(id, with_head(row, states[id], row.status, row.fence, '1', row.lease)) end
  answer[i] = runs and 1 or 0
end
flush()
return answer
