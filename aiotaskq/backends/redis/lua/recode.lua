-- ARGV: of each task its id, and then three parts of its row (body, JSON of the state, progress or ''), each as it was
-- read and as it becomes. Returns 1 or 0 for each: whether the row was as it was read, and is written.
-- include: constants
-- include: base
-- include: head
-- include: flow
-- include: flush

local answer, ids = {}, {}
for i = 1, #ARGV, 7 do ids[#ids + 1] = ARGV[i] end
load_states(ids)
local stored, progress = read_fields('body', ids), read_fields('progress', ids)
for n, id in ipairs(ids) do
  local at, row = 7 * n - 6, parse(states[id])
  local same = row and stored[n] == ARGV[at + 1] and sub(states[id], row.json) == ARGV[at + 3]
    and (progress[n] or '') == ARGV[at + 5]
  if same then
    bodies[#bodies + 1] = id
    bodies[#bodies + 1] = ARGV[at + 2]
    set_state(id, sub(states[id], 1, row.json - 1) .. ARGV[at + 4])
    if ARGV[at + 6] ~= '' then set_field('progress', id, ARGV[at + 6]) end
  end
  answer[n] = same and 1 or 0
end
flush()
return answer
