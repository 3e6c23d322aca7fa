-- ARGV: owner, a member to begin behind or '', limit. Returns the last member looked at, '' at the end; then id, fence
-- and cancel flag of the rows that this worker holds.
-- include: constants
-- include: base
-- include: head
-- include: flow

local first = ARGV[2] == '' and '[' .. ARGV[1] .. ' ' or '(' .. ARGV[2]
local members = call('ZRANGE', root .. 'held', first, '(' .. ARGV[1] .. '!', 'BYLEX', 'LIMIT', 0, ARGV[3])
local ids, answer = {}, {#members == tonumber(ARGV[3]) and members[#members] or ''}
for i, member in ipairs(members) do ids[i] = sub(member, #ARGV[1] + 22) end
load_states(ids)
for _, id in ipairs(ids) do
  local row = parse(states[id])
  if row and row.status == 'running' and match(row.lease, '^@([^!]+)') == ARGV[1] then
    answer[#answer + 1] = id
    answer[#answer + 1] = row.fence
    answer[#answer + 1] = row.cancel
  end
end
return answer
