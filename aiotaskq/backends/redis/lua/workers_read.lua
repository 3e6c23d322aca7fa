-- ARGV: owner, or '' for all. Returns the value of each, whether it is asked to be quiet ('1'), and its wanted slots.
-- include: base

local answer = {}
local found = ARGV[1] == '' and call('HGETALL', root .. 'workers') or {ARGV[1], call('HGET', root .. 'workers', ARGV[1])}
for i = 1, #found, 2 do
  if found[i + 1] then
    local asked = call('HMGET', root .. 'steered', found[i] .. ' quiet', found[i] .. ' slots')
    answer[#answer + 1] = found[i + 1]
    answer[#answer + 1] = asked[1] or ''
    answer[#answer + 1] = asked[2] or ''
  end
end
return answer
