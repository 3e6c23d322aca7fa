-- ARGV: owner, or '' for all. Returns the value of each, whether it is asked to be quiet ('1'), and its wanted slots.
-- include: constants
-- include: base

local answer = {}
local owner, workers = ARGV[1], root .. 'workers'
local found = owner == '' and call('HGETALL', workers) or {owner, call('HGET', workers, owner)}
for i = 1, #found, 2 do
  if found[i + 1] then
    local asked = call('HMGET', root .. 'steered', found[i] .. ' quiet', found[i] .. ' slots')
    answer[#answer + 1] = found[i + 1]
    answer[#answer + 1] = asked[1] or ''
    answer[#answer + 1] = asked[2] or ''
  end
end
return answer
