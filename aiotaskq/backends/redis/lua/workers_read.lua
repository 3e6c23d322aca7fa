-- Returns the value of each worker, whether it is asked to be quiet ('1'), and its wanted slots.
-- include: constants
-- include: base

local answer, found = {}, call('HGETALL', root .. 'workers')
for i = 1, #found, 2 do
  local asked = call('HMGET', root .. 'steered', found[i] .. ' quiet', found[i] .. ' slots')
  for _, word in ipairs({found[i + 1], asked[1] or '', asked[2] or ''}) do answer[#answer + 1] = word end
end
return answer
