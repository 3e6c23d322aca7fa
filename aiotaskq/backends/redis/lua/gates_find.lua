-- ARGV: keys of gates. Returns of each its state, '' if there is none, and how many rows hold a slot and wait.
-- include: constants
-- include: base
-- include: head
-- include: slots
-- include: gated_rows
-- include: index
-- include: flush
-- include: gate
-- include: gates

use_gates()
local tools = gate_tools()
local answer = {}
gated.load_slots(ARGV)
for _, key in ipairs(ARGV) do
  answer[#answer + 1] = call('HGET', root .. 'gates', key) or ''
  answer[#answer + 1] = gated.count_slots(key)
  answer[#answer + 1] = tools.count_waiting(key)
end
return answer
