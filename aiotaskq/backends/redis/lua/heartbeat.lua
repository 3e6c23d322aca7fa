-- ARGV: lease_until, then id and fence of each task. Returns the cancel flag of each, 1 or 0, and -1 for a lost lease.
-- include: base
-- include: when_full

local answer, ids = {}, {}
for i = 2, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
load_states(ids)
for i, id in ipairs(ids) do
  local row = parse(states[id])
  if row and row.status == 'running' and row.fence == ARGV[2 * i + 1] then
    set_state(id, with_head(row, states[id], row.status, row.fence, row.cancel, ARGV[1]))
    set_score('running', row.seq .. id, ARGV[1])
    answer[i] = row.cancel == '1' and 1 or 0
  else
    answer[i] = -1
  end
end
flush()
return answer
